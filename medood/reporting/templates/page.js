"use strict";
// The page of a run. Every text reaches the document as text, never as markup; nothing is fetched and nothing is sent.
(() => {
  const PER_PAGE = 100;
  const data = JSON.parse(document.getElementById("data").textContent);
  const words = data.words;
  const at = (id) => document.getElementById(id);
  const say = (name, values = {}) => words[name].replace(/\{(\w+)\}/g, (whole, key) => (key in values ? String(values[key]) : whole));
  const make = (tag, attributes = {}, text = "") => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.textContent = text;
    return made;
  };
  const figure = (value, digits) => (value === null ? "" : Number(value.toPrecision(digits)).toString());
  const share = (value) => `${Number((100 * value).toFixed(2))} %`;

  const rows = data.rows.map(([key, name, status, decision, score, p, reason, finding, page], i) => ({
    key, name, status, decision, score, p, reason, finding, page, rank: status === "scored" ? i + 1 : null,
    text: `${name} ${status} ${reason} ${finding}`.toLowerCase(),
  }));
  const byKey = new Map(rows.filter((row) => row.status === "scored").map((row) => [row.key, row]));
  const told = new Map(); // what is told with an entry, by its key
  for (const [key, lead] of Object.entries(data.groups)) if (byKey.has(key) && byKey.has(lead)) told.set(lead, [...(told.get(lead) ?? []), byKey.get(key)]);
  const grouped = () => at("entries").checked;
  const toldWith = (row) => (grouped() && row.status === "scored" && told.get(row.key)) || [];
  const isTold = (row) => grouped() && row.status === "scored" && byKey.has(data.groups[row.key]);
  const reviews = new Map(data.reviews.map((item) => [item.key, item]));
  const verdictOf = (row) => reviews.get(row.key)?.verdict ?? "";

  // ---- table
  let shown = rows, page = 0, current = null, exported = true;
  const sorting = { by: "rank", down: false };
  const value = { rank: (r) => r.rank, name: (r) => r.name, status: (r) => r.decision || r.status, score: (r) => r.score, p: (r) => r.p, review: verdictOf };
  const passes = {
    all: () => true,
    refused: (r) => r.status !== "scored",
    evidence: (r) => r.page >= 0,
    unreviewed: (r) => r.decision === "out_of_distribution" && !verdictOf(r),
    out_of_distribution: (r) => r.decision === "out_of_distribution",
    in_distribution: (r) => r.decision === "in_distribution",
  };

  const choose = () => {
    const wanted = at("filter").value.trim().toLowerCase();
    const pass = passes[at("which").value];
    const get = value[sorting.by];
    const fits = (r) => pass(r) && (!wanted || r.text.includes(wanted));
    shown = rows.filter((r) => !isTold(r) && (fits(r) || toldWith(r).some(fits)));
    const compare = (a, b) => (typeof a === "string" ? (a < b ? -1 : Number(a > b)) : a - b);
    shown.sort((a, b) => {
      const x = get(a), y = get(b);
      if (x === null || y === null || x === "" || y === "") return Number(x === null || x === "") - Number(y === null || y === "");
      return sorting.down ? compare(y, x) : compare(x, y);
    });
    page = 0;
    draw();
  };

  const cells = (row) => {
    const tr = make("tr", { "data-key": row.key });
    if (row.decision === "out_of_distribution") tr.className = "flagged";
    if (row === current) tr.setAttribute("aria-current", "true");
    const open = make("button", { type: "button", "aria-label": say("html open", { name: row.name }) }, row.name);
    open.addEventListener("click", () => show(row));
    const name = make("td");
    const thumbnail = data.thumbnails[row.key];
    if (thumbnail) name.append(make("img", { src: thumbnail, alt: "", loading: "lazy" }));
    name.append(open);
    const others = toldWith(row).length;
    if (others) name.append(make("span", { class: "others" }, say("html told with", { count: others })));
    const status = row.decision ? words[row.decision] : row.status;
    const statusCell = make("td", { class: "status" }, status);
    if (row.finding) statusCell.append(make("span", { class: "others" }, row.finding));
    tr.append(
      make("td", { class: "number" }, row.rank ?? ""), name, statusCell,
      make("td", { class: "number" }, figure(row.score, 4)), make("td", { class: "number" }, figure(row.p, 4)),
      make("td", {}, verdictOf(row) && words[verdictOf(row)]),
    );
    return tr;
  };

  const draw = () => {
    const pages = Math.max(1, Math.ceil(shown.length / PER_PAGE));
    const held = document.activeElement.closest?.("#rows tr")?.dataset.key;
    at("rows").replaceChildren(...shown.slice(page * PER_PAGE, (page + 1) * PER_PAGE).map(cells));
    at("showing").textContent = shown.length
      ? say("html showing", { shown: shown.length, total: rows.length, page: page + 1, pages })
      : words["html nothing"];
    if (held) [...at("rows").children].find((tr) => tr.dataset.key === held)?.querySelector("button").focus({ preventScroll: true });
    at("place").textContent = current ? say("html position", { place: shown.indexOf(current) + 1 || "–", count: shown.length }) : "";
    at("before").disabled = page === 0;
    at("after").disabled = page >= pages - 1;
    for (const head of document.querySelectorAll("th[data-sort]")) {
      const mine = head.dataset.sort === sorting.by;
      head.setAttribute("aria-sort", mine ? (sorting.down ? "descending" : "ascending") : "none");
    }
  };

  // ---- viewer
  const list = (parent, items) => parent.replaceChildren(...items);
  const captioned = (picture, text) => {
    const made = make("figure");
    made.append(make("img", { src: picture, alt: text }), make("figcaption", {}, text));
    return made;
  };

  const show = (row) => {
    current = row;
    const evidence = row.page >= 0 ? data.pages[row.page] : null;
    at("name").textContent = row.name;
    const picture = evidence?.picture || data.thumbnails[row.key];
    at("figure").hidden = !picture;
    if (picture) {
      at("picture").src = picture;
      at("picture").alt = `${words["scan as read"]}: ${row.name}`;
      for (const [id, text] of [["map", "map of the score"], ["places", "unusual places"]]) {
        at(id).hidden = !evidence?.[id];
        if (evidence?.[id]) at(id).src = evidence[id];
        at(id).alt = words[text];
      }
      at("peak").hidden = !evidence?.peak;
      if (evidence?.peak) [at("peak").style.top, at("peak").style.left] = evidence.peak.map((share) => `${100 * share}%`);
    }
    const missing = evidence ? evidence.missing && say("No image", { why: evidence.missing }) : row.status === "scored" && words["html no evidence"];
    at("missing").textContent = missing || "";
    const others = toldWith(row);
    const reasons = [...(evidence ? evidence.reasons : row.finding ? [say("finding", { name: row.finding })] : []), ...(row.reason ? [row.reason] : [])];
    if (others.length) reasons.push(say("html judged with", { count: others.length, names: others.slice(0, 20).map((r) => r.name).join(", ") }));
    list(at("reasons"), reasons.map((text) => make("li", {}, text)));
    const small = evidence && evidence.corrected ? [captioned(evidence.corrected, evidence.correction)] : [];
    for (const known of evidence ? evidence.nearest : []) {
      if (known.picture) small.push(captioned(known.picture, `${words["nearest scans"]}: ${known.cosine} ${known.file}`));
    }
    list(at("small"), small);
    const facts = [[words["Score"], figure(row.score, 5)], [words["p-value"], figure(row.p, 5)], ["SHA-256", row.key.split(":")[0]], ...(evidence ? evidence.facts : [])];
    list(at("facts"), facts.filter(([, text]) => text).flatMap(([name, text]) => [make("dt", {}, name), make("dd", {}, text)]));
    for (const id of ["agree", "disagree", "note"]) at(id).disabled = row.status !== "scored";
    reviewed();
    const place = shown.indexOf(row);
    if (place >= 0 && Math.floor(place / PER_PAGE) !== page) page = Math.floor(place / PER_PAGE);
    draw();
    at("rows").querySelector("[aria-current]")?.scrollIntoView({ block: "nearest" });
  };

  const step = (by) => {
    if (!shown.length) return;
    const place = shown.indexOf(current);
    show(shown[place < 0 ? 0 : Math.min(shown.length - 1, Math.max(0, place + by))]);
  };

  const mode = (name) => {
    at("figure").className = name;
    for (const button of document.querySelectorAll("[data-mode]")) button.setAttribute("aria-pressed", String(button.dataset.mode === name));
  };

  // ---- review
  const reviewed = () => {
    const item = current ? reviews.get(current.key) : undefined;
    for (const id of ["agree", "disagree"]) at(id).setAttribute("aria-pressed", String(item?.verdict === id));
    if (document.activeElement !== at("note")) at("note").value = item?.note ?? "";
    at("reviewed").textContent = say("html reviewed", { count: [...reviews.values()].filter((r) => r.verdict).length });
  };

  const note = (change) => {
    if (!current || current.status !== "scored") return;
    const amend = (row, part) => {
      const item = { key: row.key, verdict: "", note: "", ...reviews.get(row.key), ...part };
      if (item.verdict || item.note) reviews.set(row.key, item);
      else reviews.delete(row.key);
    };
    amend(current, change);
    if ("verdict" in change) for (const row of toldWith(current)) amend(row, { verdict: change.verdict });
    exported = false;
    reviewed();
    draw();
  };
  const judge = (verdict) => current && note({ verdict: verdictOf(current) === verdict ? "" : verdict });

  const save = (name, kind, text) => {
    const link = make("a", { download: name });
    link.href = URL.createObjectURL(new Blob([text], { type: kind }));
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    exported = true;
  };
  const inOrder = () => rows.filter((r) => r.status === "scored" && reviews.has(r.key)).map((r) => [r, reviews.get(r.key)]);
  const asJson = () => {
    const items = inOrder().map(([row, item]) => ({ key: item.key, scan: row.name, decision: row.decision, verdict: item.verdict, note: item.note }));
    const body = { medood_review: data.review_version, run: data.run, reviewer: at("reviewer").value, reviews: items };
    save(`medood-review-${data.run}.json`, "application/json", `${JSON.stringify(body, null, 1)}\n`);
  };
  // A spreadsheet takes a cell that begins so for a formula.
  const spelled = (text) => text.replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
  const guarded = (text) => (/^[=+\-@\t\r\n'＝＋－＠]/.test(text) ? `'${spelled(text)}` : spelled(text));
  const cell = (text) => `"${guarded(text).replaceAll('"', '""')}"`;
  const asCsv = () => {
    const lines = inOrder().map(([row, item]) => [data.run, at("reviewer").value, item.key, row.name, row.decision, item.verdict, item.note]);
    save(`medood-review-${data.run}.csv`, "text/csv", [data.review_columns, ...lines].map((line) => `${line.map(cell).join(",")}\r\n`).join(""));
  };
  const takeOver = async (file) => {
    const taken = [];
    let reviewer = "";
    try {
      const body = JSON.parse(await file.text());
      const known = new Set(rows.filter((r) => r.status === "scored").map((r) => r.key));
      if (body.medood_review !== data.review_version || body.run !== data.run) throw new Error("another run");
      for (const item of body.reviews) {
        if (!known.has(item.key) || !["", "agree", "disagree"].includes(item.verdict)) throw new Error("another run");
        taken.push({ key: item.key, verdict: item.verdict, note: String(item.note ?? "").slice(0, 4000) });
      }
      reviewer = String(body.reviewer ?? "").slice(0, 200);
    } catch {
      at("reviewed").textContent = words["html other run"];
      return;
    }
    for (const item of taken) reviews.set(item.key, item);
    at("reviewer").value = reviewer;
    draw();
    reviewed();
    at("reviewed").textContent = say("html imported", { count: taken.length });
  };

  // ---- histogram and threshold
  const chart = data.histogram;
  const SVG = "http://www.w3.org/2000/svg";
  const drawn = (tag, attributes) => {
    const made = document.createElementNS(SVG, tag);
    for (const [name, text] of Object.entries(attributes)) made.setAttribute(name, text);
    return made;
  };
  const across = (score) => (1000 * (score - chart.low)) / (chart.high - chart.low || 1);
  const svg = drawn("svg", { viewBox: "0 0 1000 130", preserveAspectRatio: "none" });
  const peak = Math.max(0.01, ...chart.calibration, ...chart.screened);
  const width = 1000 / chart.calibration.length;
  chart.calibration.forEach((part, i) => part && svg.append(drawn("rect", { x: i * width, y: 130 - (125 * part) / peak, width, height: (125 * part) / peak, fill: "#cdcdcd" })));
  chart.screened.forEach((part, i) => part && svg.append(drawn("rect", { x: i * width, y: 130 - (125 * part) / peak, width, height: (125 * part) / peak, fill: "none", stroke: "#b23c14", "stroke-width": 2, "vector-effect": "non-scaling-stroke" })));
  const mark = drawn("line", { y1: 0, y2: 130, stroke: "#111", "stroke-width": 2, "stroke-dasharray": "5 4", "vector-effect": "non-scaling-stroke" });
  svg.append(mark);
  at("histogram").append(svg);

  // How many of falling scores lie above.
  const above = (scores, threshold) => {
    let low = 0, high = scores.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (scores[middle] > threshold) low = middle + 1;
      else high = middle;
    }
    return low;
  };
  // The highest are known exactly; what lies below them is thinned where there are very many.
  const scoresAbove = (threshold) => {
    const exact = above(data.scores, threshold);
    if (exact < data.scores.length || !data.rest.length) return exact;
    return exact + Math.round((above(data.rest, threshold) * (data.scored - data.scores.length)) / data.rest.length);
  };
  let threshold = chart.threshold;
  const flaggedAt = () => {
    mark.setAttribute("visibility", threshold === null ? "hidden" : "visible");
    at("threshold").value = threshold ?? chart.high;
    if (threshold === null) {
      at("would").textContent = say("html no threshold", { flagged: data.flagged, scored: data.scored });
      return;
    }
    const flagged = scoresAbove(threshold);
    const alarms = above(data.calibration, threshold) / Math.max(1, data.calibration.length);
    mark.setAttribute("x1", across(threshold));
    mark.setAttribute("x2", across(threshold));
    at("threshold").setAttribute("aria-valuetext", figure(threshold, 4));
    at("would").textContent = say("html would flag", { threshold: figure(threshold, 4), flagged, scored: data.scored, share: share(flagged / Math.max(1, data.scored)), calibration: share(alarms) });
  };
  Object.assign(at("threshold"), { min: chart.low, max: chart.high, step: (chart.high - chart.low) / 1000 || 1 });
  at("threshold").addEventListener("input", (event) => { threshold = Number(event.target.value); flaggedAt(); });
  at("reset").addEventListener("click", () => { threshold = chart.threshold; flaggedAt(); });

  // ---- wiring
  at("filter").addEventListener("input", choose);
  at("which").addEventListener("change", choose);
  at("entries").addEventListener("change", () => { choose(); if (current) show(current); });
  at("before").addEventListener("click", () => { page -= 1; draw(); });
  at("after").addEventListener("click", () => { page += 1; draw(); });
  for (const head of document.querySelectorAll("th[data-sort]")) {
    head.firstElementChild.addEventListener("click", () => {
      sorting.down = sorting.by === head.dataset.sort ? !sorting.down : false;
      sorting.by = head.dataset.sort;
      choose();
    });
  }
  for (const button of document.querySelectorAll("[data-mode]")) button.addEventListener("click", () => mode(button.dataset.mode));
  at("next").addEventListener("click", () => step(1));
  at("previous").addEventListener("click", () => step(-1));
  at("agree").addEventListener("click", () => judge("agree"));
  at("disagree").addEventListener("click", () => judge("disagree"));
  at("note").addEventListener("input", (event) => note({ note: event.target.value }));
  at("reviewer").addEventListener("input", () => { exported = false; });
  at("json").addEventListener("click", asJson);
  at("csv").addEventListener("click", asCsv);
  at("import").addEventListener("change", (event) => event.target.files.length && takeOver(event.target.files[0]));
  const keys = { n: () => step(1), p: () => step(-1), a: () => judge("agree"), d: () => judge("disagree"), m: () => at("note").focus(), 1: () => mode("picture"), 2: () => mode("map"), 3: () => mode("unusual"), 4: () => mode("both") };
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && event.target === at("note")) at("note").blur();
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input:not([type=range]), select, textarea")) return;
    const act = keys[event.key.toLowerCase()];
    if (act && !(event.repeat && "ad".includes(event.key.toLowerCase()))) { event.preventDefault(); act(); }
  });
  window.addEventListener("beforeunload", (event) => { if (!exported) event.preventDefault(); });

  at("reviewer").value = data.reviewer;
  flaggedAt();
  choose();
  reviewed();
})();
