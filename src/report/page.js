// The page but for the futures. Foreign text reaches the document as text nodes and plain attributes (labels) only.
"use strict";

const index = JSON.parse(byId("index").textContent);

// ---- elements ----

function byId(id) {
  return document.getElementById(id);
}

// Children are elements and texts; what is null or false is left out.
function el(name, attributes, ...children) {
  return furnish(document.createElement(name), attributes, children);
}

function svg(name, attributes, ...children) {
  return furnish(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function furnish(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

// Shows a list a page at a time: `draw` makes an element of an item.
function fillSlowly(container, items, draw, size = 100) {
  let shown = 0;
  const more = el("button", { type: "button", class: "more" });
  const draw_more = () => {
    more.remove();
    container.append(...items.slice(shown, shown + size).map(draw));
    shown = Math.min(shown + size, items.length);
    if (shown === items.length) return;
    more.textContent = `Show ${Math.min(size, items.length - shown)} more of ${integer(items.length - shown)}`;
    container.append(container.tagName === "TBODY" ? el("tr", {}, el("td", { colspan: 99 }, more)) : more);
  };
  more.addEventListener("click", () => {
    more.closest("tr")?.remove();
    draw_more();
  });
  draw_more();
  return container;
}

// ---- words and numbers ----

// Characters that show as nothing, or that reorder the ones around them, are written out.
const HIDDEN = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]/g;

function visible(text) {
  return text.replace(HIDDEN, (c) => `⟨U+${c.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);
}

// Foreign text in a box of its own, whose direction stays inside.
function foreign(text, attributes) {
  return el("bdi", attributes, visible(text));
}

function excerpt(text, length = 140) {
  const line = Array.from(text.slice(0, 4 * length).replace(/\s+/g, " ").trim());
  return line.length > length ? `${line.slice(0, length - 1).join("")}…` : line.join("");
}

function number(x, digits = 3) {
  if (x === null || x === undefined) return "–";
  const large = Math.abs(x) >= 1e6;
  return (large ? x.toExponential(digits) : x.toFixed(digits)).replace("-", "−");
}

function integer(x) {
  return x === null || x === undefined ? "–" : x.toLocaleString("en");
}

function percent(share) {
  return `${(100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0)}%`;
}

function withError(mean, error) {
  return error === null || error === undefined ? number(mean) : `${number(mean)} ± ${number(error)}`;
}

function plural(count, what) {
  return `${integer(count)} ${what}${count === 1 ? "" : "s"}`;
}

function candidateName(candidate) {
  return candidate === null || candidate === undefined ? "Unknown candidate" : `Candidate ${candidate}`;
}

// Names in a trace are anybody's, "constructor" included.
function own(map, key) {
  return map && Object.hasOwn(map, key) ? map[key] : null;
}

// ---- rewards on an axis ----

function axisOf(values) {
  const finite = values.filter(Number.isFinite).concat(0);
  let low = finite.reduce((a, b) => Math.min(a, b)), high = finite.reduce((a, b) => Math.max(a, b));
  if (low === high) high = low + 1;
  // Halves, for the difference of the largest numbers is infinite.
  const margin = 0.06 * (high / 2 - low / 2);
  return { low: low - margin, high: high + margin };
}

function place(axis, x) {
  return `${(100 * ((x / 2 - axis.low / 2) / (axis.high / 2 - axis.low / 2))).toFixed(2)}%`;
}

function ticks(axis) {
  const rough = (axis.high - axis.low) / 4;
  if (!Number.isFinite(rough)) return [0];
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const all = [];
  for (let n = Math.ceil(axis.low / step); n * step <= axis.high && all.length < 9; n++) all.push(n * step);
  return all;
}

function axisLabels(axis) {
  const label = (x) => (Math.abs(x) < 1e-12 ? "0" : String(+x.toPrecision(3)).replace("-", "−"));
  const labels = ticks(axis).map((x) => svg("text", { x: place(axis, x), y: 12, "text-anchor": "middle" }, label(x)));
  return svg("svg", { class: "axis", height: 16, "aria-hidden": "true" }, labels);
}

// Small dots are futures, the bar the interval, the large dot the mean.
function plot(axis, rewards, mean, interval) {
  const [low, high] = interval ?? [null, null];
  const known = Number.isFinite(low) && Number.isFinite(high);
  const says = `mean ${number(mean)}${known ? `, 95% interval ${number(low)} to ${number(high)}` : ""}`;
  const height = interval === undefined ? 16 : 30, middle = interval === undefined ? 8 : 11;
  const dots_at = interval === undefined ? middle : 24;
  const x = (value) => place(axis, value);
  return svg("svg", { class: "plot", height, role: "img", "aria-label": says },
    svg("line", { class: "zero", x1: x(0), x2: x(0), y1: 0, y2: height }),
    known && svg("line", { class: "bar", x1: x(low), x2: x(high), y1: middle, y2: middle }),
    rewards.slice(0, 100).map((reward) => svg("circle", { class: "sample", cx: x(reward), cy: dots_at, r: 2.5 })),
    interval !== undefined && Number.isFinite(mean) && svg("circle", { class: "mean", cx: x(mean), cy: middle, r: 5 }));
}

// A share of a whole; the number stands beside it.
function shareBar(share) {
  const width = `${Math.max(0, Math.min(100, 100 * share)).toFixed(1)}%`;
  return svg("svg", { class: "share", height: 6, "aria-hidden": "true" },
    svg("rect", { class: "track", width: "100%", height: 6, rx: 3 }),
    svg("rect", { class: "fill", width, height: 6, rx: 3 }));
}

function countedRewards(rollouts) {
  return rollouts.filter((rollout) => rollout.counted && rollout.reward !== null).map((rollout) => rollout.reward);
}

// ---- what was asked ----

const GOALS = {
  task: "Task", prompt: "Full request", reference: "Reference", tests: "Tests", entry_point: "Entry point",
};

function message(said, mark = (text) => [text]) {
  const role = said.role ?? "unknown";
  const known = ["user", "assistant", "system"].includes(role) ? role : "other";
  const notes = [
    said.finish && `ended by ${visible(said.finish)}`,
    Number.isFinite(said.tokens) && plural(said.tokens, "token"),
    said.retokenized_differs && "sampled as other tokens than its text gives",
  ].filter(Boolean);
  return el("div", { class: `message ${known}` },
    el("p", { class: "role" }, foreign(role), notes.length > 0 && el("span", { class: "note" }, notes.join(" · "))),
    el("p", { class: "text", dir: "auto" }, said.content === null ? "(no text)" : mark(visible(said.content))));
}

function facts(list) {
  const known = (value) => value !== null && value !== undefined && value !== false && value !== "";
  return list.filter(([, value]) => known(value)).flatMap(([name, value]) =>
    el("div", {}, el("dt", {}, name), el("dd", {}, typeof value === "string" ? foreign(value) : value)));
}

function shown(value) {
  return typeof value === "string" ? value : JSON.stringify(value, null, 1);
}

function allocationWords(ranking) {
  const done = ranking.outcome?.allocation;
  if (!done) return ranking.request?.allocation ? shown(ranking.request.allocation) : null;
  const parts = [done.strategy ?? "unnamed"];
  if (done.rollouts !== null) parts.push(`${plural(done.rollouts, "future")}`);
  if (done.rounds !== null) parts.push(plural(done.rounds, "round"));
  if (done.stopped !== null && done.stopped !== false) parts.push(`stopped: ${shown(done.stopped)}`);
  return parts.join(", ");
}

function modelWords(outcome) {
  const roles = new Map();
  for (const [role, model] of Object.entries(outcome?.models ?? {})) {
    if (model?.name) roles.set(model.name, [...(roles.get(model.name) ?? []), role]);
  }
  for (const model of outcome?.reward_models ?? []) {
    if (model.name) roles.set(model.name, [...(roles.get(model.name) ?? []), "metrics"]);
  }
  return Array.from(roles, ([name, played]) => `${name} (${played.join(", ")})`).join("; ");
}

function showRequest(ranking) {
  const { request, outcome } = ranking;
  const conversation = request?.conversation ?? [];
  const last = conversation.at(-1)?.content;
  byId("about").replaceChildren(foreign(last ? excerpt(last, 90) : ranking.id));
  byId("facts").replaceChildren(...facts([
    ["Ranking", ranking.id], ["Time", request?.time], ["Window", Number.isFinite(request?.window) && plural(request.window, "turn")],
    ["Responses", request?.sampled && `${integer(request.sampled)} to be sampled`],
    ["Samples", request?.samples?.toString()], ["Seed", request?.seed], ["Allocation", allocationWords(ranking)],
    ["Models", modelWords(outcome)],
    ["Wall time", ranking.cost.seconds === null ? null : `${ranking.cost.seconds.toFixed(1)} s`],
    ["Reproducible", outcome?.bitwise === null || !outcome ? null : outcome.bitwise ? "to the last bit" : "not to the bit"],
  ]));
  const notices = [
    !outcome && "The trace has no result for this ranking: it was cut off or goes on still. Rewards are means of the "
      + "futures so far.",
    outcome?.complete === false && "Incomplete: the ranking was stopped before all futures had ended, and rests on those "
      + "that were finished for all candidates.",
    !request && "The trace has no request for this ranking, so conversation and goal are unknown.",
  ];
  const notes = (outcome?.notes ?? []).map((note) => foreign(note));
  const said = notices.filter(Boolean).concat(notes);
  byId("notices").replaceChildren(...said.map((text) => el("p", { class: "notice" }, text)));
  byId("asked").hidden = !request;
  byId("conversation").replaceChildren(...conversation.map((said) => message(said)));
  const goal = Object.entries(request?.goal ?? {}).filter(([, value]) => value !== null);
  byId("goal").replaceChildren(goal.length === 0 ? el("p", { class: "hint" }, "None given.") : el("dl", { class: "goal" },
    goal.flatMap(([name, value]) => [
      el("dt", {}, own(GOALS, name) ?? foreign(name)),
      el("dd", { dir: "auto", class: ["tests", "entry_point"].includes(name) ? "code" : null }, visible(shown(value))),
    ])));
}

// ---- candidates ----

function metricNames(ranking) {
  const names = new Set();
  for (const metric of ranking.request?.metrics ?? []) if (metric.name !== null) names.add(metric.name);
  for (const candidate of ranking.candidates) Object.keys(candidate.metrics).forEach((name) => names.add(name));
  for (const rollout of ranking.rollouts) Object.keys(rollout.metrics).forEach((name) => names.add(name));
  return Array.from(names);
}

function weightOf(ranking, name) {
  const asked = (ranking.request?.metrics ?? []).find((metric) => metric.name === name)?.weight;
  const used = ranking.candidates.map((candidate) => own(candidate.metrics, name)?.weight).find(Number.isFinite);
  return used ?? asked ?? null;
}

function groupBy(items, key) {
  const groups = new Map();
  for (const item of items) {
    const name = key(item);
    if (!groups.has(name)) groups.set(name, []);
    groups.get(name).push(item);
  }
  return groups;
}

function rewardAxis(ranking) {
  const of = ranking.candidates.flatMap((candidate) => [candidate.reward, ...(candidate.interval ?? [])]);
  return axisOf(of.concat(countedRewards(ranking.rollouts)));
}

function metricCell(summary) {
  if (!summary) return "–";
  const notes = [
    Number.isFinite(summary.saturated) && summary.saturated > 0 && `clamped ${percent(summary.saturated)}`,
    Number.isFinite(summary.mass) && `mass ≥ ${number(summary.mass, 2)}`,
  ].filter(Boolean);
  return [withError(summary.mean, summary.std_error), notes.length > 0 && el("small", {}, notes.join(", "))];
}

// A metric's mean where the trace has no result that would say it.
function soFar(ranking, futures, name) {
  if (ranking.outcome) return null;
  const counted = futures.filter((future) => future.counted);
  const values = counted.map((future) => judgedOf(own(future.metrics, name)).value).filter(Number.isFinite);
  return { mean: mean(values), std_error: null };
}

function columns(ranking, view) {
  const some = (field) => ranking.candidates.some((candidate) => candidate[field] !== null);
  const best = ranking.candidates[0];
  const difference = (candidate) => candidate.difference === null ? (candidate === best ? "best" : "–") : [
    withError(candidate.difference.mean, candidate.difference.std_error),
    candidate.difference.interval && el("small", {}, candidate.difference.interval.map((x) => number(x)).join(" to ")),
  ];
  const list = [
    { name: "Response", class: "response", cell: (candidate) => response(candidate, view) },
    { name: "Reward", class: "number", cell: (candidate) => [
      withError(candidate.reward, candidate.std_error),
      candidate.interval && el("small", {}, candidate.interval.map((x) => number(x)).join(" to "))] },
    { name: "95% interval", class: "interval", head: axisLabels(view.axis), cell: (candidate) =>
      plot(view.axis, countedRewards(view.futures(candidate)), candidate.reward, candidate.interval) },
    some("difference") && { name: "To the best", class: "number", cell: difference },
    some("probability_best") && { name: "P(best)", class: "number", cell: (candidate) =>
      candidate.probability_best === null ? "–" : percent(candidate.probability_best) },
    ...view.metrics.map((name) => ({ name, foreign: true, class: "number", note: weightOf(ranking, name),
      cell: (candidate) => metricCell(own(candidate.metrics, name) ?? soFar(ranking, view.futures(candidate), name)) })),
    { name: "Futures", class: "number", cell: (candidate) => {
      const futures = view.futures(candidate), counted = futures.filter((rollout) => rollout.counted).length;
      return counted === futures.length ? integer(counted) : `${integer(counted)} of ${integer(futures.length)}`;
    } },
  ];
  return list.filter(Boolean);
}

function response(candidate, view) {
  const open = el("button", { type: "button", class: "link" }, candidateName(candidate.candidate));
  open.addEventListener("click", () => view.open(candidate));
  const notes = [candidate.note, candidate.retokenized_differs && "sampled as other tokens than its text gives"];
  return [open, el("p", { class: "clamp", dir: "auto" }, visible(excerpt(candidate.response ?? "(no text)", 400))),
    notes.filter(Boolean).map((note) => el("small", { class: "warn", dir: "auto" }, visible(note)))];
}

function showCandidates(ranking, view) {
  const shape = columns(ranking, view);
  const head = shape.map((column) => el("th", { scope: "col", class: column.class },
    column.foreign ? foreign(column.name) : column.name,
    column.note !== null && column.note !== undefined && el("small", {}, `× ${column.note}`.replace("-", "−")),
    column.head));
  const row = (candidate) => el("tr", {}, shape.map((column) =>
    el("td", { class: column.class, "data-label": visible(column.name) }, column.cell(candidate))));
  const body = fillSlowly(el("tbody"), ranking.candidates, row);
  byId("candidates").replaceChildren(el("table", { class: "cards" }, el("thead", {}, el("tr", {}, head)), body));
}

// ---- cost ----

const ROLES = ["policy", "user", "judge", "extractor", "reward_model"];
const COUNTS = ["prompt_tokens", "reused_tokens", "generated_tokens", "seconds"];

function total(cost) {
  const sum = Object.fromEntries(COUNTS.map((field) => [field, null]));
  for (const usage of ROLES.map((role) => cost?.[role]).filter(Boolean)) {
    for (const field of COUNTS) if (usage[field] !== null) sum[field] = (sum[field] ?? 0) + usage[field];
  }
  return sum;
}

function usageCells(usage) {
  const share = usage.prompt_tokens > 0 && usage.reused_tokens !== null ? usage.reused_tokens / usage.prompt_tokens : null;
  return [
    el("td", { class: "number" }, integer(usage.prompt_tokens)),
    el("td", { class: "number" }, integer(usage.reused_tokens), share !== null && [el("small", {}, percent(share)), shareBar(share)]),
    el("td", { class: "number" }, integer(usage.generated_tokens)),
    el("td", { class: "number" }, usage.seconds === null ? "–" : usage.seconds.toFixed(1)),
  ];
}

function costTable(caption, rows, sum) {
  const row = ([name, usage]) => el("tr", {}, el("th", { scope: "row" }, name), usageCells(usage));
  const head = ["", "Prompt tokens", "of them reused", "Generated", "Seconds"];
  return el("div", { class: "scroll" }, el("table", {}, caption && el("caption", {}, caption),
    el("thead", {}, el("tr", {}, head.map((name) => el(name ? "th" : "td", { scope: name ? "col" : null }, name)))),
    fillSlowly(el("tbody"), rows, row), sum && el("tfoot", {}, row(["All", sum]))));
}

function showCost(ranking) {
  const roles = ROLES.filter((role) => ranking.cost[role]).map((role) => [role, ranking.cost[role]]);
  const candidates = ranking.candidates.filter((candidate) => candidate.cost)
    .map((candidate) => [candidateName(candidate.candidate), total(candidate.cost)]);
  byId("cost").replaceChildren(
    roles.length === 0 ? el("p", { class: "hint" }, "The trace says nothing of it.")
      : costTable("By role; seconds are summed over requests, which overlap", roles, total(ranking.cost)),
    candidates.length > 0 ? costTable("By candidate", candidates) : "");
}

// ---- which ranking ----

function show(at) {
  const ranking = JSON.parse(byId(`ranking-${at}`).textContent);
  const byCandidate = groupBy(ranking.rollouts, (rollout) => rollout.candidate);
  const view = {
    axis: rewardAxis(ranking),
    metrics: metricNames(ranking),
    futures: (candidate) => byCandidate.get(candidate.candidate) ?? [],
  };
  showRequest(ranking);
  showCandidates(ranking, view);
  showFutures(ranking, view);
  showCost(ranking);
}

function showIndex() {
  byId("source").replaceChildren(foreign(index.source));
  document.title = `${visible(index.source)} · foreturn report`;
  const { count, first } = index.unreadable;
  const notes = [];
  if (count > 0) {
    notes.push(el("details", { class: "notice" },
      el("summary", {}, `${plural(count, "line")} of the trace could not be read`),
      el("ul", {}, first.map(({ line, why }) => el("li", {}, `line ${line}: `, foreign(why)))),
      count > first.length && el("p", {}, `and ${integer(count - first.length)} more`)));
  }
  if (index.unknown > 0) {
    notes.push(el("p", { class: "notice" },
      `Left out: ${plural(index.unknown, "line")} of a kind that foreturn ${index.version} does not know`));
  }
  byId("unreadable").replaceChildren(...notes);
  if (index.rankings.length > 1) showChoice();
}

function showChoice() {
  const select = byId("rankings"), find = byId("find");
  const label = ({ id, about, rollouts }) => visible(excerpt(`${id} · ${plural(rollouts, "future")} · ${about}`, 110));
  const entries = index.rankings.map((entry, at) => ({
    text: `${entry.id}\n${entry.about}`.toLowerCase(),
    option: el("option", { value: at }, label(entry)),
  }));
  const step = (by) => {
    const to = select.selectedIndex + by;
    if (to < 0 || to >= select.options.length) return;
    select.selectedIndex = to;
    changed();
  };
  const changed = () => {
    byId("previous").disabled = select.selectedIndex <= 0;
    byId("next").disabled = select.selectedIndex >= select.options.length - 1;
    if (select.value !== "" && select.value !== select.dataset.shown) show((select.dataset.shown = select.value));
  };
  find.addEventListener("input", () => {
    const wanted = find.value.trim().toLowerCase();
    select.replaceChildren(...entries.filter(({ text }) => text.includes(wanted)).map(({ option }) => option));
    if (select.options.length === 0) select.append(el("option", { value: "" }, "none found"));
    const kept = Array.from(select.options).findIndex((option) => option.value === select.dataset.shown);
    select.selectedIndex = Math.max(kept, 0);
    changed();
  });
  select.addEventListener("change", changed);
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  byId("choose").addEventListener("submit", (event) => event.preventDefault());
  select.replaceChildren(...entries.map(({ option }) => option));
  select.dataset.shown = "0";
  byId("choose").hidden = false;
  changed();
}

