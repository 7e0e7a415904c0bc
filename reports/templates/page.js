"use strict";
/* What all parts of the page share, and what is too small for a file of its own: theme, figures, copying. */
const byId = (id) => document.getElementById(id);
const el = (tag, className, text) => {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
};

const save = (name, type, text) => {
  const link = el("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
};

const copy = async (text) => {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch { // no permission, or a page that the browser does not hold for secure
    const area = el("textarea", "unseen");
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
};

const say = (text) => { byId("said").textContent = text; };

const copyOn = (button, text) => button.addEventListener("click", async () => {
  const label = button.dataset.label ||= button.textContent;
  say("");
  const done = await copy(text());
  button.focus();
  say(done ? `Copied: ${button.getAttribute("aria-label") || label}` : "The browser does not let this page copy.");
  button.textContent = done ? "Copied" : "Not copied";
  setTimeout(() => { button.textContent = label; }, 1500);
});

{
  const theme = byId("theme");
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => root.dataset.theme ? root.dataset.theme === "dark" : dark.matches;
  const show = () => { theme.textContent = isDark() ? "Light page" : "Dark page"; };
  theme.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    show();
  });
  dark.addEventListener("change", show);
  theme.hidden = false;
  show();

  for (const button of document.querySelectorAll("[data-save]")) {
    button.hidden = false;
    button.addEventListener("click", () => {
      const svg = button.closest("figure").querySelector(".paper > svg");
      save(`${button.dataset.save}.svg`, "image/svg+xml", '<?xml version="1.0" encoding="utf-8"?>\n' + new XMLSerializer().serializeToString(svg));
    });
  }
  for (const button of document.querySelectorAll("[data-copy-text]")) {
    button.hidden = false;
    copyOn(button, () => byId(button.dataset.copyText).textContent);
  }
  for (const box of document.querySelectorAll("div.scroll")) {
    const mark = () => {
      box.classList.toggle("more", box.scrollLeft + box.clientWidth < box.scrollWidth - 1);
      box.style.setProperty("--bar", `${box.offsetWidth - box.clientWidth}px`); // its own scroll bar does not fade
    };
    box.addEventListener("scroll", mark, { passive: true });
    const sizes = new ResizeObserver(mark);
    for (const part of [box, ...box.children]) sizes.observe(part);
  }
  addEventListener("beforeprint", () => { for (const part of document.querySelectorAll("details")) part.open = true; });
}
