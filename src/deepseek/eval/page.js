"use strict";
// Everything from the report is set as text, never as markup.
const FIELDS = ["task", "id", "group", "shared", "prompt", "expected", "output", "scores", "chosen",
  "grades", "seconds", "error", "sha256"];
const ROWS = 100; // items drawn at once
const { tasks: TASKS, items } = JSON.parse(document.getElementById("data").textContent);
const ITEMS = items.map((row, place) => {
  const item = { place };
  FIELDS.forEach((name, i) => { item[name] = row[i]; });
  item.value = item.error ? 0 : item.grades[TASKS[item.task].metric];
  item.state = stateOf(item);
  return item;
});
const $ = (id) => document.getElementById(id);
let found = [];
let first = 0;
let order = { key: "value", down: false };

function stateOf(item) {
  if (item.error) return "error";
  if (item.value === undefined || !TASKS[item.task].isShare) return "other";
  return item.value >= 1 ? "right" : item.value <= 0 ? "wrong" : "partly";
}

function make(tag, properties, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties || {})) {
    if (name in element && name !== "role") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function number(value, isShare) {
  if (typeof value !== "number") return value === undefined || value === null ? "–" : String(value);
  return isShare ? `${(100 * value).toFixed(1)} %` : String(Number(value.toPrecision(4)));
}

const count = (value) => value.toLocaleString("en");
const plain = (text) => (typeof text === "string" ? text : text[0] + "\n" + text[2]);

// White space that decides what a model answers is marked: at ends of lines and of the text.
function spaced(text) {
  const parts = [];
  let last = 0;
  for (const match of text.matchAll(/ +(?=\n|$)|\t|\n+$/g)) {
    parts.push(text.slice(last, match.index));
    for (const sign of match[0]) {
      const shown = sign === " " ? "·" : sign === "\t" ? "→" : "↵";
      parts.push(make("span", { className: "white", "data-sign": shown }, sign));
    }
    last = match.index + match[0].length;
  }
  parts.push(text.slice(last));
  return parts;
}

function block(text, label) {
  const pre = make("pre", { tabIndex: 0, role: "region", "aria-label": label });
  if (typeof text === "string") pre.append(...(text ? spaced(text) : [make("i", {}, "empty")]));
  else {
    const gap = `${count(text[1])} characters left out`;
    pre.append(text[0], make("span", { className: "gap" }, gap), ...spaced(text[2]));
  }
  return pre;
}

function section(title, ...children) {
  return make("section", {}, make("h4", {}, title), ...children);
}

function promptOf(item) {
  const shared = item.shared < 0 ? null : TASKS[item.task].shared[item.shared];
  if (shared === null) return section("Prompt", block(item.prompt, "Prompt"));
  const length = typeof shared === "string" ? shared.length : shared[0].length * 2 + shared[1];
  const folded = make("details", { className: "shared" });
  folded.append(make("summary", {}, `${count(length)} characters before it, the same for all items`
    + (item.group ? " of this group" : "")));
  folded.addEventListener("toggle", () => {
    if (folded.open && folded.children.length === 1) folded.append(block(shared, "Shared beginning"));
  });
  return section("Prompt", folded, block(item.prompt, "Prompt"));
}

function choicesOf(item) {
  const { choices, gold } = item.expected;
  const metric = TASKS[item.task].metric;
  const normed = item.scores.some((score) => score[0] !== score[3]);
  const best = Math.max(...item.scores.map((score) => score[3]));
  const weights = item.scores.map((score) => Math.exp(score[3] - best));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  const head = ["", "Choice", "Log-probability", ...(normed ? [metric] : []), "Tokens", "Greedy", "Share"];
  const rows = choices.map((text, i) => {
    const score = item.scores[i];
    const marks = [i === gold ? "right answer" : "", i === item.chosen ? "chosen" : ""].filter(Boolean);
    const kind = `${i === gold ? "gold " : ""}${i === item.chosen ? "chosen" : ""}`;
    const share = score ? weights[i] / total : 0;
    return make("tr", { className: kind },
      make("td", { className: "marks" }, marks.join(", ")),
      make("td", { className: "text" }, ...spacedChoice(text)),
      make("td", { className: "n" }, score ? score[0].toFixed ? score[0].toFixed(3) : score[0] : "–"),
      normed ? make("td", { className: "n" }, number(score && score[3])) : null,
      make("td", { className: "n" }, score ? String(score[1]) : "–"),
      make("td", {}, score && score[2] ? "yes" : ""),
      make("td", { className: "share" }, meter(share), ` ${(100 * share).toFixed(0)} %`));
  });
  const heads = head.map((name) => make("th", { scope: "col" }, name));
  return section("Choices", make("div", { className: "scroll" }, make("table", { className: "choices" },
    make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...rows))));
}

function spacedChoice(text) {
  const lead = text.match(/^ */)[0].length;
  const signs = Array.from({ length: lead }, () => make("span", { className: "white", "data-sign": "·" }, " "));
  return [...signs, ...spaced(text.slice(lead))];
}

function meter(share) {
  const fill = make("i", {});
  fill.style.width = `${100 * share}%`;
  return make("span", { className: "meter" }, fill);
}

function valueOf(value) {
  if (typeof value === "string") return block(value, "Expected");
  if (value === null || typeof value !== "object") return make("code", {}, String(value));
  if (Array.isArray(value)) {
    return make("ol", { className: "values" }, ...value.map((inner) => make("li", {}, valueOf(inner))));
  }
  return make("dl", {}, ...Object.entries(value).flatMap(([name, inner]) =>
    [make("dt", {}, name), make("dd", {}, valueOf(inner))]));
}

function answerOf(item) {
  const isChoice = item.expected && Array.isArray(item.expected.choices) && !item.output;
  if (isChoice) return [choicesOf(item)];
  const parts = [];
  if (item.output || !item.scores.length) parts.push(section("Output", block(item.output, "Output")));
  if (item.expected !== null) parts.push(section("Expected", valueOf(item.expected)));
  if (item.scores.length) {
    const [logprob, tokens] = item.scores[0];
    parts.push(section("Log-probability", make("p", {}, `${number(logprob)} nats, ${count(tokens)} tokens`)));
  }
  return [make("div", { className: "pair" }, ...parts)];
}

function fill(details, item) {
  const metric = TASKS[item.task].metric;
  const grades = Object.entries(item.grades).filter(([name]) => !name.endsWith("/weight"));
  const chips = grades.map(([name, value]) =>
    make("span", { className: name === metric ? "chip head" : "chip" }, `${name} ${number(value)}`));
  details.append(make("div", { className: "body" },
    item.error ? make("p", { className: "fault" }, `Counts as wrong: ${item.error}`) : null,
    promptOf(item),
    ...answerOf(item),
    make("p", { className: "grades" }, ...chips),
    make("p", { className: "meta" }, `${number(item.seconds)} s · prompt ${item.sha256.slice(0, 16)} · `,
      make("a", { href: linkOf(item) }, "link to this item"))));
}

const linkOf = (item) => `#${encodeURIComponent(TASKS[item.task].name)}/${encodeURIComponent(item.id)}`;

function row(item) {
  const signs = { right: "✓", wrong: "✗", partly: "◐", error: "!", other: "•" };
  const skip = TASKS[item.task].skips[item.group];
  const text = plain(item.prompt).slice(skip, skip + 400).replace(/\s+/g, " ").trim().slice(0, 180);
  const details = make("details", { className: `item ${item.state}`, "data-place": item.place });
  details.append(make("summary", {},
    make("span", { className: "sign", title: item.state, role: "img", "aria-label": item.state }, signs[item.state]),
    make("span", { className: "id" }, item.id),
    make("span", { className: "snippet" }, text),
    make("span", { className: "value" }, number(item.error ? undefined : item.value))));
  details.addEventListener("toggle", () => {
    if (details.open && details.children.length === 1) fill(details, item);
  });
  return details;
}

function filter() {
  const task = $("task").value;
  const group = $("group").value;
  const state = $("state").value;
  const words = $("search").value.toLowerCase();
  found = ITEMS.filter((item) => (task === "" || item.task === Number(task))
    && (group === "" || item.group === group.slice(1))
    && (state === "" || item.state === state)
    && (words === "" || textOf(item).includes(words)));
  const sorts = {
    order: (a, b) => a.place - b.place,
    low: (a, b) => (a.value ?? Infinity) - (b.value ?? Infinity) || a.place - b.place,
    high: (a, b) => (b.value ?? -Infinity) - (a.value ?? -Infinity) || a.place - b.place,
    slow: (a, b) => b.seconds - a.seconds || a.place - b.place,
    long: (a, b) => b.output.length - a.output.length || a.place - b.place,
  };
  found.sort(sorts[$("sort").value]);
  draw(0);
}

function textOf(item) {
  const expected = typeof item.expected === "string" ? item.expected : JSON.stringify(item.expected);
  return `${item.id}\n${plain(item.prompt)}\n${plain(item.output)}\n${expected}\n${item.error}`.toLowerCase();
}

function draw(start) {
  first = start;
  const last = Math.min(first + ROWS, found.length);
  $("items").replaceChildren(...found.slice(first, last).map(row));
  const right = found.filter((item) => item.state === "right").length;
  const all = found.length ? `${count(first + 1)}–${count(last)} of ${count(found.length)} items` : "no items";
  $("count").textContent = right && right < found.length ? `${all}, ${count(right)} right` : all;
  $("empty").hidden = found.length > 0;
  $("pages").hidden = found.length <= ROWS;
  $("before").disabled = first === 0;
  $("after").disabled = last >= found.length;
}

function turn(step) {
  draw(first + step * ROWS);
  $("list").scrollIntoView();
  $("count").focus();
}

function interval(numbers, isShare) {
  if (!isShare) return null;
  const [value, low, high] = numbers;
  const fill = make("i", {});
  fill.style.width = `${100 * value}%`;
  const whisker = make("b", {});
  whisker.style.left = `${100 * low}%`;
  whisker.style.width = `${100 * (high - low)}%`;
  return make("span", { className: "bar", "aria-hidden": "true" }, fill, whisker);
}

// A long name may break after an underscore or a slash.
function breakable(name) {
  return name.split(/(?<=[_/])/).flatMap((part) => [part, make("wbr")]);
}

function drawGroups() {
  const task = TASKS[$("task").value];
  const groups = task ? Object.entries(task.groups) : [];
  $("groups").hidden = groups.length < 2;
  if (groups.length < 2) return;
  const keys = { name: ([name]) => name, value: ([, n]) => n[0], n: ([, n]) => n[3] };
  groups.sort((a, b) => {
    const [x, y] = [keys[order.key](a), keys[order.key](b)];
    return (x < y ? -1 : x > y ? 1 : 0) * (order.down ? -1 : 1);
  });
  $("metric").textContent = task.metric;
  for (const head of document.querySelectorAll("#groups th")) {
    const mine = head.dataset.key === order.key;
    head.setAttribute("aria-sort", mine ? (order.down ? "descending" : "ascending") : "none");
  }
  $("grouprows").replaceChildren(...groups.map(([name, numbers]) => {
    const [value, low, high, n] = numbers;
    const button = make("button", { type: "button", className: "plain" }, ...breakable(name || "no group"));
    button.setAttribute("aria-pressed", String($("group").value === `=${name}`));
    button.addEventListener("click", () => {
      $("group").value = $("group").value === `=${name}` ? "" : `=${name}`;
      filter();
      drawGroups();
    });
    const title = `${number(low, task.isShare)} to ${number(high, task.isShare)}`;
    return make("tr", {}, make("th", { scope: "row" }, button),
      make("td", { title }, interval(numbers, task.isShare)),
      make("td", { className: "n", title }, number(value, task.isShare)),
      make("td", { className: "n" }, count(n)));
  }));
}

function chooseTask() {
  const task = $("task").value;
  const names = new Set(ITEMS.filter((item) => task === "" || item.task === Number(task)).map((item) => item.group));
  $("group").replaceChildren(make("option", { value: "" }, "all groups"),
    ...[...names].filter(Boolean).sort().map((name) => make("option", { value: `=${name}` }, name)));
  $("group").parentElement.hidden = names.size < 2;
  for (const card of document.querySelectorAll(".card")) {
    card.setAttribute("aria-pressed", String(card.dataset.task === task));
  }
  $("protocol").textContent = task === "" ? "" : TASKS[task].protocol;
  drawGroups();
  filter();
}

function follow() {
  const [task, id] = location.hash.slice(1).split("/").map((part) => {
    try { return decodeURIComponent(part); } catch { return part; }
  });
  const item = ITEMS.find((one) => TASKS[one.task].name === task && one.id === id);
  if (!item) return;
  $("task").value = String(item.task);
  $("state").value = "";
  $("search").value = "";
  $("sort").value = "order";
  chooseTask();
  draw(Math.floor(found.indexOf(item) / ROWS) * ROWS);
  const details = document.querySelector(`[data-place="${item.place}"]`);
  details.open = true;
  details.scrollIntoView();
}

function start() {
  const states = [["", "right and wrong"], ["wrong", "wrong"], ["partly", "partly right"], ["right", "right"],
    ["error", "error"], ["other", "without right or wrong"]];
  const present = new Set(ITEMS.map((item) => item.state));
  $("state").replaceChildren(...states.filter(([state]) => state === "" || present.has(state))
    .map(([value, label]) => make("option", { value }, label)));
  $("task").append(...TASKS.map((task, i) => make("option", { value: String(i) }, task.name)));
  if (TASKS.length) $("task").value = "0";
  $("task").addEventListener("change", chooseTask);
  for (const id of ["group", "state", "sort"]) $(id).addEventListener("change", () => { filter(); drawGroups(); });
  let timer = 0;
  $("search").addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(filter, 200); });
  $("before").addEventListener("click", () => turn(-1));
  $("after").addEventListener("click", () => turn(1));
  for (const head of document.querySelectorAll("#groups th[data-key]")) {
    head.firstElementChild.addEventListener("click", () => {
      order = { key: head.dataset.key, down: order.key === head.dataset.key ? !order.down : false };
      drawGroups();
    });
  }
  for (const card of document.querySelectorAll(".card")) {
    card.addEventListener("click", () => { $("task").value = card.dataset.task; chooseTask(); });
  }
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !/^(INPUT|SELECT)$/.test(event.target.tagName)) {
      event.preventDefault();
      $("search").focus();
    }
  });
  addEventListener("hashchange", follow);
  chooseTask();
  follow();
}

start();
