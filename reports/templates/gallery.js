/* The gallery: questions chosen by what two methods answered, methods side by side, budgets on a slider. */
if (byId("gallery-data")) {
  const images = JSON.parse(byId("gallery-data").textContent);
  const app = byId("gallery-app");
  const [family, which, ask, keep, view, shade, outline, every, thumbs, cards] = ["family", "which", "question", "keep", "view", "dim", "evidence",
    "every", "thumbs", "cards"].map((name) => byId(`gallery-${name}`));
  const chosen = [...app.querySelectorAll("[data-method]")];

  const always = (answer) => !answer.keep || answer.method === "none" || answer.method === "blind";
  const cases = images.flatMap((image) => image.questions.map((question) => ({ image, question })));
  const answers = cases.flatMap((one) => one.question.answers);
  const unlike = (values) => [...new Set(values)];
  const methods = unlike(answers.map((answer) => answer.method));
  const budgets = unlike(answers.filter((answer) => !always(answer)).map((answer) => answer.keep_label)).sort(byBudget);
  let [shown, now] = [cases, cases[0]];

  const budget = () => budgets[keep.value];
  const answerOf = (question, method) => question.answers.find((a) => a.method === method && (always(a) || a.keep_label === budget()));
  const right = (answer) => answer && answer.score !== null && answer.score >= 0.5;
  const wrong = (answer) => answer && answer.score !== null && answer.score < 0.5;

  const placed = (answer, image) => answer.grid ? gridArea(answer.grid) : image.areas ? areasOf(image.areas) : null;
  const evidenceOf = (question, image) => question.evidence === null ? null
    : { at: maskOf(question.evidence), areas: question.grid ? gridArea(question.grid) : areasOf(image.areas || []) };
  const alike = (a, b) => a.length === b.length && a.every((area, i) => area.rows === b[i].rows && area.columns === b[i].columns);
  const count = (areas, ...masks) => {
    let found = 0;
    for (let i = 0; i < tokensIn(areas); i++) found += masks.every((at) => at(i));
    return found;
  };
  const held = (one, answer) => { // of how many tokens of evidence how many are left; null where that is not known
    const evidence = evidenceOf(one.question, one.image);
    if (!answer || answer.merges || answer.kept === null || !evidence || !alike(evidence.areas, placed(answer, one.image) || [])) return null;
    return [count(evidence.areas, evidence.at, maskOf(answer.kept)), count(evidence.areas, evidence.at)];
  };
  const lost = (one, method) => {
    const found = held(one, answerOf(one.question, method));
    return found !== null && found[0] < found[1] / 2;
  };

  const FILTERS = {
    all: [() => "all", () => true],
    second: [(a, b) => `${b} wrong, ${a} right`, (one, a, b) => wrong(answerOf(one.question, b)) && right(answerOf(one.question, a))],
    first: [(a, b) => `${a} wrong, ${b} right`, (one, a, b) => wrong(answerOf(one.question, a)) && right(answerOf(one.question, b))],
    lostFirst: [(a) => `${a} kept less than half of the evidence`, (one, a) => lost(one, a)],
    lostSecond: [(a, b) => `${b} kept less than half of the evidence`, (one, a, b) => lost(one, b)],
    scores: [() => "scores or merged groups are recorded", (one, a, b) => [a, b].some((m) => {
      const answer = answerOf(one.question, m);
      return answer && (answer.ranks || answer.source);
    })],
    ...answers.some((answer) => answer.rules) && {
      rules: [() => "rules disagree about an answer", (one, a, b) => [a, b].some((m) => answerOf(one.question, m)?.rules)],
    },
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

  const verdict = (score) => score === null ? ["part", "? not scored"] : score >= 1 ? ["right", "✓ right"]
    : score <= 0 ? ["wrong", "✗ wrong"] : ["part", `◐ partly right (${score.toFixed(2)})`];

  const frame = (image, alt, parts) => {
    const made = el("div", "frame");
    const picture = made.appendChild(el("img"));
    picture.src = `data:image/png;base64,${image.png}`;
    picture.alt = alt;
    made.append(...parts);
    return made;
  };

  /* The picture of an answer, one for each layer of areas, and what the view that was asked for could not show. */
  const pictures = (answer, alt) => {
    const { image, question } = now;
    const areas = placed(answer, image);
    const evidence = outline.checked ? evidenceOf(question, image) : null;
    if (!areas || answer.kept === null) {
      return [[frame(image, alt, evidence ? layersOf(evidence.areas).map((layer) => outlined(layer, evidence.at, "evidence")) : [])], ""];
    }
    const kept = maskOf(answer.kept);
    const instead = view.value === "scores" && !answer.ranks ? "no scores recorded here; kept tokens shown"
      : view.value === "merged" && !answer.source ? "nothing merged or not recorded here; kept tokens shown" : "";
    const drawn = layersOf(areas).map((layer) => {
      const parts = view.value === "scores" && answer.ranks ? [...heated(layer, bytesOf(answer.ranks)), outlined(layer, kept, "kept")]
        : view.value === "merged" && answer.source ? [merged(layer, sourcesOf(answer.source), shade.value)]
        : [covered(layer, kept, shade.value)];
      if (evidence) for (const part of layersOf(evidence.areas)) parts.push(outlined(part, evidence.at, "evidence"));
      return frame(image, alt, parts);
    });
    return [drawn, instead];
  };

  const card = (method) => {
    const made = el("article", "card");
    const answer = answerOf(now.question, method);
    const text = el("div", "text");
    text.append(el("h3", "name", method));
    if (!answer) {
      made.append(frame(now.image, `${method} has no answer here`, []), text);
      text.append(el("small", "", `has no answer at ${budgetPhrase(budget())}`));
      return made;
    }
    const [className, word] = verdict(answer.score);
    text.append(el("span", `verdict ${className}`, word), el("span", "answer", `“${answer.prediction}”`));
    for (const line of rulingOf(answer)) text.append(el("small", "", line));
    const counts = [];
    const areas = placed(answer, now.image);
    if (answer.kept !== null && areas) {
      counts.push(`${count(areas, maskOf(answer.kept))} of ${tokensIn(areas)} tokens`);
      const left = held(now, answer);
      if (left) counts.push(`evidence ${left[0]} of ${left[1]}`);
    }
    if (answer.source) {
      const sizes = new Map();
      for (const group of sourcesOf(answer.source)) if (group >= 0) sizes.set(group, (sizes.get(group) || 0) + 1);
      counts.push(`${[...sizes.values()].filter((size) => size > 1).length} groups, the largest of ${Math.max(0, ...sizes.values())}`);
    }
    if (view.value === "scores" && answer.span) counts.push(`scores ${answer.span.map((v) => v.toPrecision(2)).join(" to ")}`);
    const [drawn, instead] = pictures(answer, `${method}: ${counts.join("; ") || "kept tokens not recorded"}`);
    for (const line of [counts.join("; "), instead, answer.note]) if (line) text.append(el("small", "", line));
    made.append(...drawn, text);
    return made;
  };

  const draw = () => {
    const told = byId("gallery-ask");
    told.replaceChildren();
    cards.replaceChildren();
    if (!shown.length) {
      told.textContent = "No question in this gallery fits; choose other methods, another budget, or all questions.";
      return;
    }
    const { question } = now;
    told.append(el("b", "", question.text), ` (${question.family}`);
    if (question.target) told.append("; the answer is ", el("b", "", question.target));
    told.append(")");
    const names = every.checked ? methods.filter((m) => answerOf(question, m)) : unlike(chosen.map((s) => s.value).filter(Boolean));
    cards.classList.toggle("few", !every.checked);
    cards.append(...names.map(card));
    byId("gallery-legend").hidden = view.value !== "scores";
  };

  /* Everything but the cards: which questions fit, the pictures they are about, where the reader stands among them. */
  const update = () => {
    const [a, b] = chosen.map((select) => select.value);
    fill(which, Object.entries(FILTERS).map(([name, [label]]) => [name, label(a, b)]));
    const fits = FILTERS[which.value][1];
    shown = cases.filter((one) => (!family.value || one.question.family === family.value) && fits(one, a, b));
    if (!shown.includes(now) && shown.length) now = shown.find((one) => one.image === now.image) || shown[0];
    byId("gallery-count").textContent = `${shown.length} of ${cases.length} questions`;
    const pictured = new Set(shown.map((one) => one.image));
    images.forEach((image, i) => {
      thumbs.children[i].hidden = !pictured.has(image);
      thumbs.children[i].setAttribute("aria-pressed", String(image === now.image));
    });
    fill(ask, shown.map((one, i) => [one, i]).filter(([one]) => one.image === now.image).map(([one, i]) => [String(i), one.question.text]));
    ask.value = String(shown.indexOf(now));
    const at = shown.indexOf(now);
    byId("gallery-back").disabled = at <= 0;
    byId("gallery-on").disabled = at < 0 || at >= shown.length - 1;
    byId("gallery-at").textContent = shown.length ? `${at + 1} of ${shown.length}` : "";
    byId("gallery-budget").textContent = budgets.length ? budgetPhrase(budget()) : "all tokens";
    keep.setAttribute("aria-valuetext", byId("gallery-budget").textContent);
    draw();
  };
  const go = (one) => {
    now = one;
    update();
  };

  images.forEach((found) => {
    const button = thumbs.appendChild(el("button"));
    button.type = "button";
    const thumb = button.appendChild(el("img"));
    thumb.src = `data:image/png;base64,${found.png}`;
    thumb.alt = `image ${found.id}`;
    button.addEventListener("click", () => go(shown.find((one) => one.image === found)));
  });
  thumbs.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const open = [...thumbs.children].filter((button) => !button.hidden);
    const next = step && open[open.indexOf(document.activeElement) + step];
    if (next) { next.focus(); next.click(); event.preventDefault(); }
  });
  byId("gallery-back").addEventListener("click", () => go(shown[shown.indexOf(now) - 1]));
  byId("gallery-on").addEventListener("click", () => go(shown[shown.indexOf(now) + 1]));
  ask.addEventListener("input", () => go(shown[ask.value]));

  fill(family, [["", "all"], ...unlike(cases.map((one) => one.question.family)).map((name) => [name, name])]);
  chosen.forEach((select, i) => fill(select, [...(i > 1 ? [["", "none beside"]] : []), ...methods.map((m) => [m, m])]));
  const [best, worst] = [app.dataset.best, app.dataset.worst].map((name) => methods.includes(name) ? name : null);
  const rest = methods.filter((m) => m !== best && m !== worst && m !== "none");
  chosen[0].value = best || rest[0] || methods[0];
  chosen[1].value = worst || rest[1] || methods[methods.length - 1];
  chosen[2].value = methods.includes("none") ? "none" : "";
  keep.max = String(Math.max(0, budgets.length - 1));
  keep.value = "0";
  keep.closest("label").hidden = budgets.length < 2;
  for (const [value, name] of [["scores", "ranks"], ["merged", "source"]]) {
    view.querySelector(`[value=${value}]`).disabled = !answers.some((answer) => answer[name]);
  }
  for (const input of [family, which, keep, ...chosen]) input.addEventListener("input", update);
  for (const input of [view, shade, outline, every]) input.addEventListener("input", draw);
  now = cases.find((one) => one.question.evidence !== null && FILTERS.second[1](one, chosen[0].value, chosen[1].value)) || cases[0];
  app.hidden = false;
  if (cases.length) update();
}
