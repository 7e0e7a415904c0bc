"""The pruned forward pass: from images and questions to answers, tokens physically removed on the way."""
