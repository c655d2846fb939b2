"use strict";
// The list of transcripts: filtered in memory, drawn a few dozen at a time. Model text is only ever set as textContent.
(() => {
  const FIRST = 12;
  const STEP = 50;
  const WORDS = {
    compliance: "complied", partial: "partly refused", refusal: "refused", harmful: "harmful", harmless: "harmless",
    truncated_reasoning: "reasoning cut off", truncated_answer: "answer cut off",
    content_filter: "stopped by a filter", unscored: "unscored",
  };
  const SCORED = ["compliance", "partial", "refusal", "harmful", "harmless"];
  const data = JSON.parse(document.getElementById("transcripts-data").textContent);
  const form = document.getElementById("filters");
  const list = document.getElementById("list");
  const more = document.getElementById("more");
  const count = document.getElementById("count");
  let found = [];
  let drawn = 0;

  const make = (tag, className, text) => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const rows = data.rows.map((row) => ({
    id: row[0], label: row[1], tier: row[2], style: row[3], suite: row[4], prompt: row[5], sample: row[6], folded: row[7] === 1,
    cells: row[8].map((cell) => cell && {
      label: data.labels[cell[0]], reason: cell[1], reasoning: cell[2], answer: cell[3], premise: cell[4], erred: cell[5] === 1,
    }),
  }));
  const scored = (cell) => cell !== null && SCORED.includes(cell.label);
  const disagree = (row) => {
    const kinds = new Set(row.cells.filter(scored).map((cell) => ["compliance", "harmful"].includes(cell.label)));
    return kinds.size > 1;
  };

  // What "Show" offers: a name and a test of a row.
  const shows = [
    ["every prompt", () => true],
    ["where the models disagree", disagree],
    ...data.models.map((model, at) => [`where ${model} errs`, (row) => row.cells[at] !== null && row.cells[at].erred]),
    ["where an answer has no score", (row) => row.cells.some((cell) => cell !== null && !scored(cell))],
  ];
  const addOptions = (select, names) => names.forEach((name, at) => {
    const option = make("option", "", name === "" ? "none" : name);
    option.value = String(at);
    select.append(option);
  });
  const values = (key) => [...new Set(rows.map((row) => row[key]))];
  const choices = {};
  addOptions(form.elements.show, shows.map(([name]) => name));
  for (const [name, key] of [["suite", "suite"], ["label", "label"], ["tier", "tier"], ["style", "style"]]) {
    choices[name] = [null, ...values(key)];
    addOptions(form.elements[name], choices[name].map((value) => (value === null ? "any" : value)));
    if (choices[name].length < 3) form.elements[name].parentElement.hidden = true;
  }

  const holds = (row, text) => row.prompt.toLowerCase().includes(text) || row.id.toLowerCase().includes(text) ||
    row.cells.some((cell) => cell !== null &&
      (cell.answer.toLowerCase().includes(text) || (cell.reasoning || "").toLowerCase().includes(text)));

  function filter() {
    const text = form.elements.text.value.trim().toLowerCase();
    const show = shows[Number(form.elements.show.value)][1];
    const wanted = Object.entries(choices).map(([name, options]) => [name, options[Number(form.elements[name].value)]]);
    found = rows.filter((row) => wanted.every(([name, value]) => value === null || row[name] === value) &&
      show(row) && (text === "" || holds(row, text)));
    list.replaceChildren();
    drawn = 0;
    draw(FIRST);
  }

  function draw(step) {
    const part = document.createDocumentFragment();
    for (const row of found.slice(drawn, drawn + step)) part.append(item(row));
    list.append(part);
    drawn = Math.min(found.length, drawn + step);
    more.hidden = drawn >= found.length;
    more.textContent = `Show ${Math.min(STEP, found.length - drawn)} more`;
    count.textContent = found.length === rows.length
      ? `${rows.length.toLocaleString("en")} prompts` : `${found.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")} prompts`;
  }

  function chip(name, cell) {
    const kind = cell === null ? "lost" : cell.erred ? "erred" : scored(cell) ? "" : "lost";
    const word = cell === null ? "not asked" : WORDS[cell.label];
    return make("span", `chip ${kind}`, name === "" ? word : `${name} ${word}${kind === "erred" ? " ✗" : ""}`);
  }

  function item(row) {
    const box = make("div", "item");
    const line = make("button", "line");
    line.type = "button";
    line.setAttribute("aria-expanded", "false");
    const hidden = row.folded && !form.elements.unfold.checked;
    const left = make("span", hidden ? "ask folded" : "ask", hidden ? `${row.id}, folded` : row.prompt);
    const about = [choices.suite.length > 2 ? row.suite : "", row.label, row.tier, row.style, row.sample > 0 ? `sample ${row.sample + 1}` : ""].filter(Boolean);
    left.prepend(make("span", "where", about.join(" · ")));
    const chips = make("span", "chips");
    data.models.forEach((model, at) => chips.append(chip(model, row.cells[at])));
    line.append(left, chips);
    line.addEventListener("click", () => {
      const open = box.classList.toggle("open");
      line.setAttribute("aria-expanded", String(open));
      if (open) {
        box.append(body(row));
        history.replaceState(null, "", `#prompt=${encodeURIComponent(row.id)}`);
      } else {
        box.querySelector(".body").remove();
      }
    });
    box.append(line);
    return box;
  }

  function body(row) {
    const inside = make("div", "body");
    const asked = make("div", "asked");
    asked.append(make("span", "tag", row.id));
    if (!row.folded || form.elements.unfold.checked) asked.append(make("div", "said", row.prompt));
    inside.append(asked);
    const reveal = () => {
      if (asked.childElementCount === 1) asked.append(make("div", "said", row.prompt));
      const sides = make("div", "sides");
      data.models.forEach((model, at) => sides.append(side(model, row.cells[at])));
      inside.append(sides);
    };
    if (row.label !== "harmful" || form.elements.unfold.checked) {
      reveal();
      return inside;
    }
    const ask = make("button", "reveal", row.folded ? "Show this harmful-labelled prompt and its answers" : "Show the answers to this harmful-labelled prompt");
    ask.type = "button";
    ask.addEventListener("click", () => { ask.remove(); reveal(); });
    inside.append(ask);
    return inside;
  }

  function side(model, cell) {
    const box = make("div", "side");
    const head = make("h4", "", model);
    head.append(chip("", cell));
    box.append(head);
    if (cell === null) return box;
    if (cell.reasoning !== null) {
      const thought = make("div", "thought");
      thought.append(make("span", "tag", "reasoning"), make("div", "said", cell.reasoning));
      box.append(thought, make("span", "tag", "answer"));
    }
    box.append(make("div", "said", cell.answer === "" ? "(empty)" : cell.answer));
    const premise = cell.premise === null ? "" : cell.premise ? "; the reasoning states the deciding fact" : "; the reasoning does not state the deciding fact";
    box.append(make("p", "why", `${cell.reason}${premise}`));
    return box;
  }

  let waiting = 0;
  form.addEventListener("input", (event) => {
    clearTimeout(waiting);
    waiting = setTimeout(filter, event.target.name === "text" ? 150 : 0);
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", () => draw(STEP));

  // An address that ends in #prompt=ID shows that prompt, opened.
  const linked = location.hash.startsWith("#prompt=") ? decodeURIComponent(location.hash.slice(8)) : null;
  if (linked !== null) form.elements.text.value = linked;
  filter();
  if (linked !== null && found.length > 0) {
    list.querySelector(".line").click();
    list.scrollIntoView();
  }
})();
