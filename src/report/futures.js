// The tree of futures and its filters. Nodes are drawn when they are first opened, long lists a page at a time.

const ENDS = {
  stop_signal: "the simulated user said that they were done",
  window: "all turns of the window were sampled",
  length: "all turns were sampled, the last reply was cut off at its limit",
  context: "a model's context was full",
  deadline: "the deadline passed",
  pruned: "the allocation of rollouts gave it up",
  cancelled: "the caller cancelled",
  failed: "a model failed or gave something that can't go on",
};
const GOOD_ENDS = ["stop_signal", "window"];
// So many matches are opened at once.
const OPENED = 8;

// ---- the tree ----

// Futures by what is said at `depth`: each branch has those that share its messages `from` to `to`.
function branches(futures, depth) {
  const groups = groupBy(futures, (future) => {
    const said = future.messages[depth];
    return said ? JSON.stringify([said.role, said.content]) : future;
  });
  return Array.from(groups.values(), (group) => ({ futures: group, from: depth, to: sharedUntil(group, depth) }));
}

function sharedUntil(futures, depth) {
  const [first, ...others] = futures;
  const same = (a, b) => a && b && a.role === b.role && a.content === b.content;
  let end = depth;
  while (end < first.messages.length && others.every(({ messages }) => same(messages[end], first.messages[end]))) end++;
  return end;
}

// A node that is filled when it opens.
function node(kind, summary, fill) {
  const details = el("details", { class: kind }, el("summary", {}, summary));
  details.draw = () => {
    if (!details.draw) return;
    details.draw = null;
    details.append(el("div", { class: "inside" }, fill()));
  };
  details.addEventListener("toggle", () => details.open && details.draw?.());
  return details;
}

function open(details) {
  details.draw?.();
  details.open = true;
  return details;
}

function mean(values) {
  return values.length === 0 ? null : values.reduce((a, b) => a + b, 0) / values.length;
}

function branchNode(branch, view) {
  const [first] = branch.futures;
  const single = branch.futures.length === 1;
  const said = first.messages.slice(branch.from, branch.to);
  const rewards = countedRewards(branch.futures);
  const opening = said.length === 0 ? "" : excerpt(said[0].content ?? "");
  const summary = [
    el("span", { class: "name" }, single ? sampleName(first) : plural(branch.futures.length, "future")),
    el("span", { class: "excerpt", dir: "auto" }, visible(opening)),
    single && el("span", { class: `chip ${GOOD_ENDS.includes(first.ended) ? "" : "odd"}` }, visible(first.ended ?? "end unknown")),
    single && !first.counted && el("span", { class: "chip lost" }, "lost"),
    plot(view.axis, rewards, mean(rewards)),
    el("span", { class: "value" }, single ? number(first.reward) : `mean ${number(mean(rewards))}`),
  ];
  return node(single ? "future" : "branch", summary, () => [
    said.map((one) => message(one, view.mark)),
    single ? outcome(first, view) : list(branches(branch.futures, branch.to), view),
  ]);
}

function list(all, view) {
  const item = (branch) => {
    const details = branchNode(branch, view);
    if (view.openAll) open(details);
    return el("li", {}, details);
  };
  return fillSlowly(el("ul", { class: "tree" }), all, item);
}

function sampleName(future) {
  return future.sample === null ? "Sample ?" : `Sample ${future.sample}`;
}

function candidateNode(candidate, futures, view) {
  const rewards = countedRewards(futures);
  const average = futures.length === view.futures(candidate).length ? candidate.reward : mean(rewards);
  const summary = [
    el("span", { class: "name" }, candidateName(candidate.candidate)),
    el("span", { class: "excerpt", dir: "auto" }, visible(excerpt(candidate.response ?? "(no text)"))),
    el("span", { class: "chip" }, plural(futures.length, "future")),
    plot(view.axis, rewards, average),
    el("span", { class: "value" }, `mean ${number(average)}`),
  ];
  return node("candidate", summary, () => [
    message({ role: "assistant", content: candidate.response }, view.mark),
    list(branches(futures, 0), view),
  ]);
}

// ---- the end of a future ----

function outcome(future, view) {
  const names = view.metrics.filter((name) => Object.hasOwn(future.metrics, name));
  const cost = ROLES.filter((role) => future.cost?.[role]).map((role) => [role, future.cost[role]]);
  return el("div", { class: "outcome" },
    el("dl", { class: "facts" }, facts([
      ["Reward", number(future.reward)],
      ["Ended", [foreign(future.ended ?? "unknown"), ": ", own(ENDS, future.ended) ?? "not known to this page"]],
      ["Counted", future.counted ? "yes" : "no"],
      ["Left out because", future.reason],
      ["Roles", future.role_confusion ? "the simulated user spoke as the assistant would" : null],
      ["Seed", future.seed],
    ])),
    el("div", { class: "metrics" }, names.map((name) => metricBox(name, future.metrics[name], view))),
    cost.length > 0 && node("spent", "Cost of this future", () => costTable(null, cost, total(future.cost))));
}

// A metric's value is a number alone where the trace has no more.
function judgedOf(metric) {
  return metric !== null && typeof metric === "object" ? metric : { value: metric, answers: [] };
}

function metricBox(name, metric, view) {
  const judged = judgedOf(metric);
  const notes = [
    judged.saturated && "clamped",
    Number.isFinite(judged.mass) && `mass on the answers ${number(judged.mass, 2)}`,
  ].filter(Boolean);
  return el("section", { class: "metric" },
    el("h3", {}, foreign(name), el("span", { class: "value" }, number(judged.value)),
      notes.length > 0 && el("span", { class: "note" }, notes.join(" · "))),
    judged.error && el("p", { class: "warn text", dir: "auto" }, view.mark(visible(judged.error))),
    judged.extracted !== null && judged.extracted !== undefined && labelled("Extracted", judged.extracted, view),
    judged.answers.map((answer, at) => answerBox(answer, at, view)));
}

function labelled(label, text, view) {
  return el("div", { class: "raw" }, el("p", { class: "role" }, label),
    el("p", { class: "text", dir: "auto" }, view.mark(visible(text))));
}

// What a model answered, as it came.
function answerBox(answer, at, view) {
  const label = `Answer ${at + 1}`;
  if (typeof answer?.text === "string") {
    const cut = typeof answer.finish === "string" && answer.finish !== "stop" ? `, ended by ${visible(answer.finish)}` : "";
    return labelled(label + cut, answer.text, view);
  }
  if (Array.isArray(answer?.probabilities) && answer.probabilities.every(Number.isFinite)) {
    return el("div", { class: "raw" }, el("p", { class: "role" }, `${label}, probabilities`),
      el("ol", { class: "odds" }, answer.probabilities.map((p) => el("li", {}, el("span", {}, number(p)), shareBar(p)))));
  }
  return labelled(label, Number.isFinite(answer?.score) ? `score ${number(answer.score)}` : shown(answer), view);
}

// ---- filters ----

// The text of a future that a search looks at, kept from the first search on.
const searched = new WeakMap();

function searchedText(future) {
  if (!searched.has(future)) {
    const judged = Object.values(future.metrics).map(judgedOf);
    const texts = [
      ...future.messages.map(({ content }) => content), future.reason,
      ...judged.flatMap(({ extracted, error, answers }) => [extracted, error, ...answers.map((answer) => answer?.text)]),
    ];
    searched.set(future, texts.filter((text) => typeof text === "string").join("\n").toLowerCase());
  }
  return searched.get(future);
}

function markerOf(words) {
  if (words === "") return (text) => [text];
  const pattern = new RegExp(words.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"), "gi");
  return (text) => {
    const parts = [];
    let end = 0;
    for (const hit of text.matchAll(pattern)) {
      parts.push(text.slice(end, hit.index), el("mark", {}, hit[0]));
      end = hit.index + hit[0].length;
    }
    return parts.concat(text.slice(end));
  };
}

// What the form asks for: whether a future is wanted, and the words to mark.
function readFilters(view) {
  const value = (id) => byId(id).value;
  const bound = (id, none) => (value(id) === "" ? none : Number(value(id)));
  const [least, most] = [bound("by-least", -Infinity), bound("by-most", Infinity)];
  const metric = view.values[Number(value("by-metric"))];
  const ranged = Number.isFinite(least) || Number.isFinite(most);
  const words = value("by-text").trim(), lower = words.toLowerCase();
  const end = view.ends[Number(value("by-end")) - 1], which = value("by-count");
  const inRange = (future) => {
    const x = metric.of(future);
    return Number.isFinite(x) && x >= least && x <= most;
  };
  return {
    words,
    any: words !== "" || ranged || end !== undefined || which !== "all",
    candidate: view.ranking.candidates[Number(value("by-candidate")) - 1],
    wants: (future) => (end === undefined || future.ended === end.name)
      && (which === "all" || future.counted === (which === "counted"))
      && (!ranged || inRange(future))
      && (words === "" || searchedText(future).includes(lower)),
  };
}

function ordered(futures) {
  const order = byId("order").value;
  if (order === "sample") return futures;
  const sign = order === "best" ? -1 : 1;
  const key = ({ reward }) => (reward === null ? Infinity : sign * reward);
  return [...futures].sort((a, b) => (key(a) === key(b) ? 0 : key(a) - key(b)));
}

function drawTree(view) {
  const filter = readFilters(view);
  const candidates = filter.candidate ? [filter.candidate] : view.ranking.candidates;
  const wanted = candidates.map((candidate) => [candidate, ordered(view.futures(candidate).filter(filter.wants))]);
  const found = wanted.reduce((sum, [, futures]) => sum + futures.length, 0);
  view.mark = markerOf(filter.words);
  view.openAll = filter.any && found <= OPENED;
  byId("matches").textContent = found === view.ranking.rollouts.length ? plural(found, "future")
    : `${integer(found)} of ${plural(view.ranking.rollouts.length, "future")}`;
  const item = ([candidate, futures]) => {
    const details = candidateNode(candidate, futures, view);
    details.candidate = candidate;
    if (view.openAll || candidates.length === 1 || view.opened === candidate) open(details);
    return el("li", {}, details);
  };
  const shownOnes = wanted.filter(([, futures]) => futures.length > 0 || !filter.any);
  byId("tree").replaceChildren(found === 0 && filter.any
    ? el("p", { class: "hint" }, "No future is like that; Reset shows all again.")
    : fillSlowly(el("ul", { class: "tree" }), shownOnes, item));
}

function choices(select, names) {
  byId(select).replaceChildren(...names.map((name, at) => el("option", { value: at }, visible(name))));
}

// Prepares filters and tree for a ranking.
function showFutures(ranking, view) {
  const ends = Array.from(groupBy(ranking.rollouts, (future) => future.ended), ([name, all]) => ({ name, count: all.length }));
  Object.assign(view, {
    ranking,
    ends,
    opened: ranking.candidates[0],
    values: [{ name: "reward", of: (future) => future.reward }, ...view.metrics.map((name) => ({
      name, of: (future) => judgedOf(own(future.metrics, name)).value,
    }))],
    open: (candidate) => {
      byId("by-candidate").value = String(ranking.candidates.indexOf(candidate) + 1);
      drawTree(view);
      byId("futures-title").scrollIntoView();
      byId("tree").querySelector("summary")?.focus({ preventScroll: true });
    },
  });
  byId("filters").reset();
  choices("by-candidate", ["all", ...ranking.candidates.map(({ candidate, response }) =>
    `${candidateName(candidate)}: ${excerpt(response ?? "", 40)}`)]);
  choices("by-end", ["in any way", ...ends.map(({ name, count }) => `${name ?? "end unknown"} (${integer(count)})`)]);
  choices("by-metric", view.values.map(({ name }) => name));
  current = view;
  drawTree(view);
}

let current = null;
let waiting = null;

function redrawSoon(wait) {
  clearTimeout(waiting);
  waiting = setTimeout(() => current && drawTree(current), wait);
}

// Typing is let finish; a choice acts at once.
const typed = (event) => event.target.tagName === "INPUT";
byId("filters").addEventListener("input", (event) => typed(event) && redrawSoon(150));
byId("filters").addEventListener("change", (event) => typed(event) || redrawSoon(0));
byId("filters").addEventListener("reset", () => redrawSoon(0));
byId("filters").addEventListener("submit", (event) => event.preventDefault());
showIndex();
show(0);
document.documentElement.dataset.ready = "yes";
