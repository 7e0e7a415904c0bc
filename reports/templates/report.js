"use strict";
(() => {
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

  /* The table: sort by any column head, filter by budget, text and role. */
  const table = byId("table");
  if (table) {
    const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const sortBy = (column, down) => {
      const numeric = heads[column].dataset.type === "number";
      const raw = (row) => row.cells[column].dataset.value;
      const compare = (a, b) => {
        const [x, y] = [raw(a), raw(b)];
        if (x === "" || y === "") return (x === "") - (y === ""); // what was not measured stays last either way
        const order = numeric ? Number(x) - Number(y) : x.localeCompare(y);
        return down ? -order : order;
      };
      body.append(...rows.sort(compare));
      heads.forEach((head, i) => i === column ? head.setAttribute("aria-sort", down ? "descending" : "ascending") : head.removeAttribute("aria-sort"));
    };
    heads.forEach((head, i) => head.querySelector("button").addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      sortBy(i, now ? now === "ascending" : head.dataset.type === "number");
    }));

    const [budget, text, reference] = [byId("filter-budget"), byId("filter-text"), byId("filter-reference")];
    const filter = () => {
      const wanted = text.value.trim().toLowerCase();
      let shown = 0;
      for (const row of rows) {
        const at = row.dataset.keep;
        const fits = (!budget.value || !at || at === budget.value)
          && (reference.checked || row.dataset.role === "method")
          && (!wanted || [...row.querySelectorAll("th, .text")].some((cell) => cell.dataset.value.toLowerCase().includes(wanted)));
        row.hidden = !fits;
        shown += fits;
      }
      byId("filter-count").textContent = `${shown} of ${rows.length} cells`;
    };
    for (const input of [budget, text, reference]) input.addEventListener("input", filter);
    byId("filters").addEventListener("submit", (event) => event.preventDefault());
    byId("filters").hidden = false;
    filter();

    byId("save-csv").addEventListener("click", () => {
      const quote = (value) => /[",\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value;
      const names = [...rows[0].cells].map((cell, i) => cell.dataset.column || heads[i].textContent.trim().toLowerCase());
      const lines = [...body.rows].filter((row) => !row.hidden).map((row) => [...row.cells].map((cell) => quote(cell.dataset.value)).join(","));
      save("cells.csv", "text/csv", [names.join(","), ...lines, ""].join("\n"));
    });
  }

  /* Figures: each can be saved as a file of its own. */
  for (const button of document.querySelectorAll("[data-save]")) {
    button.hidden = false;
    button.addEventListener("click", () => {
      const svg = button.closest("figure").querySelector(".paper > svg");
      save(`${button.dataset.save}.svg`, "image/svg+xml", '<?xml version="1.0" encoding="utf-8"?>\n' + new XMLSerializer().serializeToString(svg));
    });
  }

  /* The gallery. */
  const data = byId("gallery-data");
  if (!data) return;
  const images = JSON.parse(data.textContent);
  const [ask, keep, dim, outline, thumbs] = ["gallery-question", "gallery-keep", "gallery-dim", "gallery-evidence", "thumbs"].map(byId);
  const whole = (answer) => answer.method === "none" || answer.method === "blind";
  let image = images[0];

  const unpack = (mask, [height, width]) => {
    const bytes = Uint8Array.from(atob(mask), (c) => c.charCodeAt(0));
    return { height, width, at: (y, x) => y >= 0 && x >= 0 && y < height && x < width
      && (bytes[(y * width + x) >> 3] >> (7 - ((y * width + x) & 7)) & 1) === 1 };
  };
  const drawing = (mask, paths) => {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", `0 0 ${mask.width} ${mask.height}`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true");
    for (const [className, d] of paths) {
      const path = document.createElementNS(svg.namespaceURI, "path");
      path.setAttribute("class", className);
      path.setAttribute("d", d);
      svg.append(path);
    }
    return svg;
  };
  const cover = (mask) => { // one rectangle for each run of dropped tokens in a row
    let d = "";
    for (let y = 0; y < mask.height; y++) {
      for (let x = 0; x < mask.width; x++) {
        const from = x;
        while (x < mask.width && !mask.at(y, x)) x++;
        if (x > from) d += `M${from} ${y}h${x - from}v1h${from - x}z`;
      }
    }
    return d;
  };
  const border = (mask) => {
    let d = "";
    for (let y = 0; y <= mask.height; y++) {
      for (let x = 0; x <= mask.width; x++) {
        if (mask.at(y, x) !== mask.at(y - 1, x)) d += `M${x} ${y}h1`;
        if (mask.at(y, x) !== mask.at(y, x - 1)) d += `M${x} ${y}v1`;
      }
    }
    return d;
  };
  const total = (mask, other) => {
    let found = 0;
    for (let y = 0; y < mask.height; y++) for (let x = 0; x < mask.width; x++) found += mask.at(y, x) && (!other || other.at(y, x));
    return found;
  };
  const verdict = (score) => score === null ? ["part", "? not scored"] : score >= 1 ? ["right", "✓ right"]
    : score <= 0 ? ["wrong", "✗ wrong"] : ["part", `◐ partly right (${score.toFixed(2)})`];

  const card = (answer, question) => {
    const made = el("article", "card");
    const frame = made.appendChild(el("div", "frame"));
    const picture = frame.appendChild(el("img"));
    picture.src = `data:image/png;base64,${image.png}`;
    const kept = answer.kept === null ? null : unpack(answer.kept, answer.grid);
    const evidence = question.evidence === null ? null : unpack(question.evidence, question.grid);
    if (kept) frame.append(drawing(kept, [[`gone ${dim.value}`, cover(kept)]]));
    if (evidence && outline.checked) frame.append(drawing(evidence, [["evidence under", border(evidence)], ["evidence over", border(evidence)]]));
    const text = made.appendChild(el("div", "text"));
    text.append(el("span", "name", answer.method));
    const [className, word] = verdict(answer.score);
    text.append(el("span", `verdict ${className}`, word));
    text.append(el("span", "answer", `“${answer.prediction}”`));
    const counts = [];
    if (kept) {
      counts.push(`${total(kept)} of ${kept.width * kept.height} tokens`);
      if (evidence && evidence.width === kept.width && evidence.height === kept.height) {
        counts.push(`evidence ${total(evidence, kept)} of ${total(evidence)}`);
      }
    }
    const shape = kept && evidence && (evidence.width !== kept.width || evidence.height !== kept.height) ? `grid ${kept.height} × ${kept.width}` : "";
    for (const line of [counts.join("; "), shape, answer.note]) if (line) text.append(el("small", "", line));
    picture.alt = `Tokens kept by ${answer.method}: ${counts.join("; ") || "not recorded"}`;
    return made;
  };

  const draw = () => {
    const question = image.questions[ask.value];
    const cards = byId("cards");
    cards.replaceChildren();
    byId("gallery-ask").replaceChildren();
    if (!question) return;
    byId("gallery-ask").append(el("b", "", question.text), ` (${question.family}; the answer is `, el("b", "", question.target), ")");
    for (const answer of question.answers) if (whole(answer) || String(answer.keep) === keep.value) cards.append(card(answer, question));
  };
  const fill = (select, options) => {
    const before = select.value;
    select.replaceChildren(...options.map(([value, text]) => {
      const option = el("option", "", text);
      option.value = value;
      return option;
    }));
    if (options.some(([value]) => value === before)) select.value = before;
  };
  const choose = (i, first) => {
    image = images[i];
    [...thumbs.children].forEach((button, j) => button.setAttribute("aria-pressed", String(i === j)));
    fill(ask, image.questions.map((q, j) => [String(j), `${q.text} (${q.answers.filter((a) => a.score >= 1).length} of ${q.answers.length} right)`]));
    const budgets = new Set(image.questions.flatMap((q) => q.answers.filter((a) => !whole(a)).map((a) => a.keep)));
    fill(keep, [...budgets].sort((a, b) => a - b).map((k) => [String(k), String(k)]));
    if (first) ask.value = String(Math.max(0, image.questions.findIndex((q) => q.evidence !== null)));
    draw();
  };
  images.forEach((found, i) => {
    const button = thumbs.appendChild(el("button"));
    button.type = "button";
    const thumb = button.appendChild(el("img"));
    thumb.src = `data:image/png;base64,${found.png}`;
    thumb.alt = `image ${found.id}`;
    button.addEventListener("click", () => choose(i));
  });
  thumbs.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const next = step && thumbs.children[[...thumbs.children].indexOf(document.activeElement) + step];
    if (next) { next.focus(); next.click(); event.preventDefault(); }
  });
  for (const input of [ask, keep, dim, outline]) input.addEventListener("input", draw);
  byId("gallery-app").hidden = false;
  choose(0, true);
})();
