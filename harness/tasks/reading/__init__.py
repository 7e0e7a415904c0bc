"""How our own rules read free text: which option it takes, whether it says yes or no, which number it gives."""
