/* Samples of a run, a page at a time, from the server that sent this script. What is drawn over pictures is in draw.js. */
const el = (tag, className, text) => {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
};
(() => {
  "use strict";
  const byId = (id) => document.getElementById(id);
  const option = (value, text) => {
    const made = el("option", "", text);
    made.value = value;
    return made;
  };
  const form = byId("filters");
  const size = 24;
  let cells = new Map();
  let asked = 0; // the newest request; answers to older ones are late

  const get = async (path, values) => {
    const answer = await fetch(`${path}?${new URLSearchParams(values)}`);
    if (!answer.ok) throw new Error((await answer.text()).trim());
    return answer.json();
  };
  const trouble = (error) => {
    byId("trouble").hidden = !error;
    byId("trouble").textContent = error ? `${error.message || error} (is the server still there?)` : "";
  };
  const named = (cell) => cell.method + (cell.keep === null ? "" : ` at ${budgetShown(cell.keep_label)}`);

  /* One answer: the image with what was kept, and what was said. */
  const verdict = (answer) => answer.failed !== null ? ["wrong", `✗ failed: ${answer.failed}`]
    : answer.score === null ? ["part", "? not scored"] : answer.score >= 1 ? ["right", "✓ right"]
    : answer.score <= 0 ? ["wrong", "✗ wrong"] : ["part", `◐ partly right (${answer.score.toFixed(2)})`];
  const card = (question, answer, cell, head, look) => {
    const made = el("article", "card");
    const layers = answer.grid ? [gridArea(answer.grid)] : layersOf(areasOf(answer.areas));
    for (const layer of layers.length ? layers : [null]) { // an image cut into tiles shows them, and its overview beside them
      const frame = made.appendChild(el("div", "frame"));
      const picture = frame.appendChild(el("img"));
      picture.loading = "lazy";
      picture.src = `image?${new URLSearchParams({ id: question.image })}`;
      picture.alt = `image ${question.image}`;
      picture.addEventListener("error", () => { picture.remove(); frame.classList.add("bare"); });
      if (layer && look === "scores" && answer.ranks) frame.append(...heated(layer, bytesOf(answer.ranks)));
      else if (layer && answer.source) frame.append(merged(layer, sourcesOf(answer.source), "dark"));
      else if (layer && answer.kept !== null) frame.append(covered(layer, maskOf(answer.kept), "dark"));
      if (question.evidence !== null) frame.append(outlined(gridArea(question.whole), maskOf(question.evidence), "evidence"));
    }
    const text = made.appendChild(el("div", "text"));
    text.append(head);
    const [className, word] = verdict(answer);
    text.append(el("span", `verdict ${className}`, word), el("span", "answer", `“${answer.prediction ?? ""}”`));
    const lines = rulingOf(answer);
    if (answer.kept_count !== null) lines.push(`${answer.kept_count} tokens in the last layer`);
    if (answer.recall !== null) lines.push(`${(100 * answer.recall).toFixed(0)} % of the evidence`);
    if (cell.shrunk && answer.grid && answer.grid[0]) lines.push(`image shrunk to ${answer.grid.join(" × ")} tokens`);
    if (cell.merges && !answer.source) lines.push("merged: a token stands where the first of its sources was");
    for (const line of lines) text.append(el("small", "", line));
    return made;
  };

  /* The filters live in the address, so that a view can be sent to someone. */
  const state = () => new URLSearchParams(location.hash.slice(1));
  const fill = () => {
    const now = state();
    for (const field of form.elements) {
      if (!field.name) continue;
      if (field.type === "checkbox") field.checked = now.get(field.name) === "1";
      else field.value = now.get(field.name) ?? "";
    }
    const first = [...cells.values()].find((cell) => !cell.skipped && !cell.reference) ?? [...cells.values()][0];
    if (!form.elements.cell.value && first) form.elements.cell.value = String(first.id);
  };
  const filters = () => {
    const chosen = {};
    for (const field of form.elements) {
      if (!field.name) continue;
      const value = field.type === "checkbox" ? (field.checked ? "1" : "") : field.value;
      if (value) chosen[field.name] = value;
    }
    return chosen;
  };
  const go = (page) => {
    const next = new URLSearchParams(filters());
    if (page) next.set("page", page);
    if (`#${next}` === location.hash) draw();
    else location.hash = next;
  };

  const draw = async () => {
    fill();
    const page = Math.max(0, Number.parseInt(state().get("page") ?? "0", 10) || 0);
    const turn = ++asked;
    try {
      const found = await get("samples", { ...filters(), page, size });
      if (turn !== asked) return;
      trouble();
      const cell = cells.get(form.elements.cell.value);
      byId("list").replaceChildren(...found.rows.map((row) => {
        const open = el("button", "ask", row.question);
        open.type = "button";
        open.addEventListener("click", () => detail(row.id, cell.keep_label));
        const made = card(row, row, cell, open);
        made.querySelector(".answer").after(el("small", "", `${row.family}; the answer is ${row.target}`));
        return made;
      }));
      const last = page * size + found.rows.length;
      byId("where").textContent = found.rows.length ? `${page * size + 1} to ${last} of ${found.total} samples`
        : cell.skipped ? `skipped: ${cell.skipped}` : `no sample of ${found.total} here`;
      byId("before").disabled = page === 0;
      byId("after").disabled = last >= found.total;
      byId("before").onclick = () => go(page - 1);
      byId("after").onclick = () => go(page + 1);
    } catch (error) {
      if (turn === asked) trouble(error);
    }
  };

  /* One question, all methods beside each other. */
  const detail = async (id, keep) => {
    try {
      const question = await get("question", { id });
      const budgets = new Set(question.answers.map((a) => cells.get(String(a.cell))).filter((c) => c.keep !== null).map((c) => c.keep_label));
      const choose = byId("budget");
      choose.replaceChildren(...[...budgets].sort(byBudget).reverse().map((k) => option(k, budgetShown(k))));
      if (budgets.has(keep)) choose.value = keep;
      const show = () => byId("answers").replaceChildren(...question.answers
        .map((answer) => [answer, cells.get(String(answer.cell))])
        .filter(([, cell]) => cell.keep === null || cell.keep_label === choose.value)
        .map(([answer, cell]) => card(question, answer, cell, el("b", "name", named(cell)), byId("look").value)));
      choose.onchange = show;
      byId("look").onchange = show;
      byId("look-label").hidden = !question.answers.some((answer) => answer.ranks);
      byId("detail-head").textContent = question.question;
      byId("detail-target").textContent = `${question.family}; the answer is ${question.target}`;
      show();
      byId("detail").showModal();
    } catch (error) {
      trouble(error);
    }
  };

  const start = async () => {
    const run = await get("run", {});
    cells = new Map(run.cells.map((cell) => [String(cell.id), cell]));
    document.title = `Samples of ${run.name}`;
    byId("title").textContent = document.title;
    const facts = { model: run.model, task: run.task, images: run.images, questions: run.questions, measured: run.created };
    if (run.scored) facts.scoring = run.scored;
    for (const [name, value] of Object.entries(facts)) {
      const pair = byId("facts").appendChild(el("div"));
      pair.append(el("dt", "", name), el("dd", "", value ?? "–"));
    }
    if (run.report) {
      const pair = byId("facts").appendChild(el("div"));
      const link = el("a", "", "report.html");
      link.href = "report.html";
      pair.append(el("dt", "", "report"), pair.appendChild(el("dd")));
      pair.lastChild.append(link);
    }
    const all = run.cells.map((cell) => option(cell.id, named(cell) + (cell.skipped ? " (skipped)" : "")));
    form.elements.cell.append(...all);
    form.elements.rival.append(option("", "any or none"), ...run.cells.filter((c) => !c.skipped).map((c) => option(c.id, named(c))));
    form.elements.family.append(option("", "all"), ...run.families.map((name) => option(name, name)));
    byId("lost-label").hidden = !run.evidence;
    form.addEventListener("submit", (event) => event.preventDefault());
    let wait;
    form.addEventListener("input", (event) => {
      clearTimeout(wait);
      wait = setTimeout(() => go(0), event.target.type === "search" ? 250 : 0);
    });
    addEventListener("hashchange", draw);
    await draw();
  };
  start().catch(trouble);
})();
