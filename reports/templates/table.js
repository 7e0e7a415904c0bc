/* Tables: every one can be copied; that of all cells sorts by any column, and filters by budget, text, role and column group. */
{
  const LATEX = {
    "\\": "\\textbackslash{}", "{": "\\{", "}": "\\}", $: "\\$", "&": "\\&", "#": "\\#", _: "\\_", "%": "\\%", "[": "{[}", "]": "{]}",
    "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "<": "$<$", ">": "$>$", "|": "$|$", '"': "\\textquotedbl{}",
    "`": "\\textasciigrave{}", "\u2212": "$-$", "\u2013": "--", "\u00d7": "$\\times$", "\u2264": "$\\leq$", "\u2265": "$\\geq$", "\u00a0": "~",
  };
  const flat = (text) => text.replace(/[\s\u0000-\u001f\u007f]+/g, " ").trim();
  const latex = (text) => flat(text).replace(/[\\{}$&#_%[\]~^<>|"`\u2212\u2013\u00d7\u2264\u2265\u00a0]/g, (mark) => LATEX[mark]);
  const markdown = (text) => flat(text).replace(/[\\`*_{}[\]<>|#~!&$]/g, "\\$&");
  const csv = (text) => /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  const inert = (text) => /^[=+\-@\t\r]/.test(text) ? `'${text}` : text; // a spreadsheet would take it for a formula

  const main = (cell) => [...cell.childNodes].filter((node) => !(node.matches && node.matches("small, svg, .tag"))).map((n) => n.textContent).join("");
  const detail = (cell) => flat([...cell.querySelectorAll(":scope > small")].map((small) => small.textContent).join(" "));
  const isNumber = (head) => head.dataset.type === "number";

  /* The visible part of a table: heads, and rows of cells. */
  const visible = (table) => ({
    heads: [...table.tHead.rows[table.tHead.rows.length - 1].cells].filter((cell) => !cell.hidden),
    rows: [...table.tBodies[0].rows].filter((row) => !row.hidden).map((row) => [...row.cells].filter((cell) => !cell.hidden)),
  });

  const asCsv = (table) => {
    const { heads, rows } = visible(table);
    const ends = heads.map((head, i) => isNumber(head) && rows.some((row) => row[i].dataset.lo !== undefined));
    const scales = heads.map((head, i) => rows.some((row) => row[i].dataset.scale !== undefined)); // of a figure in its own unit
    const marks = heads.map((head, i) => rows.some((row) => row[i].dataset.partial !== undefined));
    const names = heads.flatMap((head, i) => {
      const name = rows[0]?.[i].dataset.column || flat(head.textContent).toLowerCase();
      return [name, ...ends[i] ? [`${name}.lo`, `${name}.hi`] : [], ...scales[i] ? [`${name}.name`, `${name}.scale`] : [],
        ...marks[i] ? [`${name}.partial`] : []];
    });
    const lines = rows.map((row) => row.flatMap((cell, i) => {
      const value = cell.dataset.value ?? flat(cell.textContent);
      const text = isNumber(heads[i]) ? value : inert(value);
      return [text, ...ends[i] ? [cell.dataset.lo ?? "", cell.dataset.hi ?? ""] : [],
        ...scales[i] ? [inert(cell.dataset.name ?? ""), cell.dataset.scale ?? ""] : [], ...marks[i] ? [cell.dataset.partial ?? ""] : []];
    }));
    return [names, ...lines].map((line) => line.map(csv).join(",") + "\n").join("");
  };

  const asMarkdown = (table) => {
    const { heads, rows } = visible(table);
    const line = (texts) => `| ${texts.join(" | ")} |\n`;
    const text = (cell) => markdown(main(cell)) + (detail(cell) ? ` (${markdown(detail(cell))})` : "");
    return line(heads.map((head) => markdown(head.textContent))) + line(heads.map((head) => isNumber(head) ? "---:" : "---"))
      + rows.map((row) => line(row.map(text))).join("");
  };

  const asLatex = (table) => {
    const { heads, rows } = visible(table);
    const line = (texts) => `${texts.join(" & ")} \\\\\n`;
    const text = (cell) => latex(main(cell)) + (detail(cell) ? ` {\\scriptsize ${latex(detail(cell))}}` : "");
    const budget = heads.findIndex((head) => head.dataset.budget !== undefined);
    const order = rows.map((row) => row[budget]?.dataset.value);
    const grouped = new Set(order).size > 1 && order.filter((k, i) => k !== order[i - 1]).length === new Set(order).size;
    const body = rows.map((row, i) => (grouped && i && order[i] !== order[i - 1] ? "\\midrule\n" : "") + line(row.map(text)));
    return [
      "% needs \\usepackage{booktabs} and \\usepackage[T1]{fontenc}\n", "\\begin{table}\n\\centering\n",
      `\\caption{${latex(table.caption.textContent)}}\n`, `\\begin{tabular}{${heads.map((head) => isNumber(head) ? "r" : "l").join("")}}\n`,
      "\\toprule\n", line(heads.map((head) => latex(head.textContent))), "\\midrule\n", ...body, "\\bottomrule\n\\end{tabular}\n\\end{table}\n",
    ].join("");
  };

  const FORMATS = { csv: asCsv, markdown: asMarkdown, latex: asLatex };
  for (const tools of document.querySelectorAll("[data-copy]")) {
    for (const button of tools.querySelectorAll("button[data-as]")) {
      copyOn(button, () => FORMATS[button.dataset.as](byId(tools.dataset.copy)));
    }
    tools.hidden = false;
  }

  const table = byId("table");
  if (table) {
    const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const sortBy = (column, down) => {
      const raw = (row) => row.cells[column].dataset.value;
      const compare = (a, b) => {
        const [x, y] = [raw(a), raw(b)];
        if (x === "" || y === "") return (x === "") - (y === ""); // what was not measured stays last either way
        const at = (row, value) => Number(row.cells[column].dataset.order ?? value); // of budgets, shares stand above counts
        const order = isNumber(heads[column]) ? at(a, x) - at(b, y) : x.localeCompare(y);
        return down ? -order : order;
      };
      body.append(...rows.sort(compare));
      heads.forEach((head, i) => i === column ? head.setAttribute("aria-sort", down ? "descending" : "ascending") : head.removeAttribute("aria-sort"));
    };
    heads.forEach((head, i) => head.querySelector("button").addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      sortBy(i, now ? now === "ascending" : isNumber(head));
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

    const groups = [...byId("filters").querySelectorAll("[data-columns]")];
    const choose = () => {
      const shown = new Set(groups.filter((box) => box.checked).map((box) => box.dataset.columns));
      const fits = (cell) => cell.dataset.group === undefined || shown.has(cell.dataset.group);
      for (const cell of table.tHead.rows[0].cells) cell.hidden = !fits(cell);
      heads.forEach((head, i) => {
        head.hidden = !fits(head);
        for (const row of rows) row.cells[i].hidden = head.hidden;
      });
    };
    for (const box of groups) box.addEventListener("input", choose);

    byId("filters").addEventListener("submit", (event) => event.preventDefault());
    byId("filters").hidden = false;
    filter();
    choose();
    byId("save-csv").addEventListener("click", () => save("cells.csv", "text/csv", asCsv(table)));
  }
}
