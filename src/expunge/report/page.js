"use strict";
(() => {
  const records = JSON.parse(document.getElementById("expunge-records").textContent);
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const faded = (hex, share) => hex + Math.round(255 * share).toString(16).padStart(2, "0");
  /* Plotly reads a little HTML in labels; names are shown as they are. */
  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const percent = (ratio) => `${Number((100 * ratio).toPrecision(2))} %`;
  const options = (name) => ({
    displaylogo: false, displayModeBar: "hover", modeBarButtons: [["toImage"]],
    toImageButtonOptions: { format: "svg", filename: name },
  });

  function layout(more) {
    const axis = { color: color("quiet"), gridcolor: color("line"), linecolor: color("line"), zeroline: false, fixedrange: true };
    const base = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest", dragmode: false,
      font: { family: getComputedStyle(document.body).fontFamily, size: 12.5, color: color("ink") },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: color("quiet"), activecolor: color("ink") },
      hoverlabel: { bgcolor: color("panel"), bordercolor: color("line"), font: { color: color("ink") } },
    };
    const merged = { ...base, ...more };
    for (const name of Object.keys(merged)) if (/^[xy]axis/.test(name)) merged[name] = { ...axis, ...merged[name] };
    return merged;
  }

  /* Histograms of the loss: one strip for each model over one axis. */

  function drawHistograms(article, record) {
    const { edges, rows } = record.histograms.loss;
    const chosen = article.querySelector(".histogram-row").value;
    const strips = ["original", "retrained", chosen].filter((name, at, all) => name in rows && all.indexOf(name) === at);
    const highest = Math.max(...strips.flatMap((name) => [...(rows[name].forget || []), ...(rows[name].unseen || [])]));
    const share = 1 / strips.length, gap = 0.085;
    const figure = { data: [], axes: {}, notes: [] };
    strips.forEach((name, at) => {
      const axis = at ? `y${at + 1}` : "y";
      const top = 1 - at * share;
      figure.data.push(...strip(edges, rows[name], axis, at === 0));
      figure.axes[at ? `yaxis${at + 1}` : "yaxis"] = {
        domain: [top - share + (at === strips.length - 1 ? 0 : gap / 2), top - gap], range: [0, 1.08 * highest], tickformat: ".0%", nticks: 4, showline: false,
      };
      figure.notes.push({ text: `<b>${plain(name)}</b>`, xref: "paper", yref: "paper", x: 0, y: top - gap, xanchor: "left", yanchor: "bottom", showarrow: false });
    });
    const wide = article.clientWidth > 600;
    const x = {
      type: "log", title: { text: "loss in nats", standoff: 8 }, anchor: strips.length > 1 ? `y${strips.length}` : "y",
      range: [Math.log10(edges[0]), Math.log10(edges[edges.length - 1])], dtick: wide ? 1 : 2, exponentformat: "none", ticks: "outside",
    };
    const target = article.querySelector(".loss-chart");
    Plotly.react(target, figure.data, layout({
      width: target.clientWidth, height: target.clientHeight,
      ...figure.axes, xaxis: x, annotations: figure.notes, margin: { l: wide ? 56 : 42, r: 12, t: 30, b: 48 },
      legend: { orientation: "h", x: wide ? 0.95 : 0.88, xanchor: "right", y: 0.97, yanchor: "bottom" },
    }), options("losses"));
    const guess = Math.log(record.request.class_names.length);
    article.querySelector(".loss-note").textContent =
      `Shares of examples, all seeds together. The first bin also holds every loss below ${edges[0].toPrecision(2)}. ` +
      `A model that guesses among ${record.request.class_names.length} classes has a loss of ${guess.toFixed(2)}.`;
  }

  function strip(edges, parts, axis, legend) {
    const looks = {
      forget: { fill: "tozeroy", fillcolor: faded(color("forget"), 0.28), line: { color: color("forget"), width: 1.5 } },
      unseen: { line: { color: color("unseen"), width: 2, dash: "dot" } },
      retain: { line: { color: color("quiet"), width: 1 }, visible: "legendonly" },
    };
    return Object.keys(looks).filter((part) => part in parts).map((part) => {
      const { visible, line, ...rest } = looks[part];
      return {
        x: edges, y: [...parts[part], parts[part][parts[part].length - 1]], yaxis: axis, name: part, legendgroup: part,
        showlegend: legend, mode: "lines", visible, line: { shape: "hv", ...line }, ...rest,
        hovertemplate: `${part}: %{y:.1%} from %{x:.2g} nats<extra></extra>`,
      };
    });
  }

  /* Cost against closeness. */

  const SHARE = "tests outside the band";
  const tests = (row) => Object.values(row.cells).filter((cell) => cell.tested && cell.in_band !== null);

  function closenesses(record) {
    const distances = Object.entries(record.table.metrics).filter(([, head]) => head.target === "zero_up_to_band").map(([name]) => name);
    const first = ["average_gap", "jensen_shannon"].filter((name) => distances.includes(name));
    return [...first, ...distances.filter((name) => !first.includes(name)), SHARE];
  }

  function closeness(record, row, name) {
    if (name !== SHARE) return row.cells[name] && { value: row.cells[name].value, interval: row.cells[name].interval };
    const held = tests(row);
    return held.length ? { value: (100 * held.filter((cell) => !cell.in_band).length) / held.length, interval: null } : undefined;
  }

  function drawScatter(article, record) {
    const name = article.querySelector(".closeness").value, cost = article.querySelector(".cost").value;
    const head = record.table.metrics[name];
    const label = head ? head.label : SHARE, unit = head ? head.unit : "%";
    const band = head ? head.band && [0, head.band.high] : [0, 100 * (1 - record.table.level)];
    const points = [], missing = [];
    let idle;
    for (const row of record.table.rows) {
      const y = closeness(record, row, name), x = (record.cost[row.name] || {})[cost];
      if (row.role === "original" && y && !x) idle = y.value;
      else if (!y || !(x > 0)) missing.push(row.name);
      else points.push({ row, x, y: y.value, interval: y.interval });
    }
    const target = article.querySelector(".cost-chart");
    const frame = scatterFrame(points, idle, band, target.clientWidth);
    const looks = {
      reference: { symbol: "square", size: 11, color: color("ink") },
      fails: { symbol: "x", size: 10, color: color("out") },
      open: { symbol: "circle-open", size: 12, color: color("in"), line: { width: 2.5 } },
      unjudged: { symbol: "diamond-open", size: 12, color: color("quiet"), line: { width: 2 } },
    };
    const data = Object.keys(looks)
      .map((kind) => trace(points.filter((p) => kindOf(p.row) === kind), frame, looks[kind], label, unit))
      .filter((item) => item.x.length);
    Plotly.react(target, data, layout({
      width: target.clientWidth, height: target.clientHeight, showlegend: false, margin: { l: 58, r: 14, t: 16, b: 52 }, shapes: shapes(band, idle), annotations: notes(band, idle, frame),
      xaxis: { type: "log", range: frame.x, title: { text: "cost, share of retraining", standoff: 8 }, tickvals: [1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1, 10, 100], ticktext: ["0.001 %", "0.01 %", "0.1 %", "1 %", "10 %", "100 %", "10 ×", "100 ×"] },
      yaxis: { type: frame.log ? "log" : "linear", range: frame.y, nticks: 6, title: { text: `${plain(label)}${unit ? ` in ${unit}` : ""}` }, ...(frame.log ? { dtick: "D2", exponentformat: "none" } : {}) },
    }), options("cost"));
    article.querySelector(".cost-note").textContent =
      `○ no evidence of failure, ✕ fails, ${points.some((p) => kindOf(p.row) === "unjudged") ? "◇ no verdict, " : ""}■ retrained. ` +
      (band ? `The grey band is where ${head ? "new retrained models would lie" : "chance alone would put a retrained model"}. ` : "There is no band to compare with. ") +
      (missing.length ? `Not drawn, for want of a cost or a value: ${missing.join(", ")}.` : "");
  }

  function kindOf(row) {
    if (row.role !== "unlearned") return "reference";
    return row.verdict.startsWith("fails") ? "fails" : row.verdict.startsWith("no evidence") ? "open" : "unjudged";
  }

  function scatterFrame(points, idle, band, width) {
    const xs = points.map((p) => Math.log10(p.x));
    const ends = points.flatMap((p) => [p.y, p.interval ? p.interval.high : p.y]).concat(idle ?? [], band ? band[1] : []);
    const values = points.map((p) => p.y).concat(idle ?? [], band ? band[1] : []);
    const low = Math.min(...values), high = Math.max(...values, Math.min(Math.max(...ends), 1.3 * Math.max(...values)));
    const log = low > 0 && high / low > 30;
    const left = Math.min(-1, ...xs) - 0.25, right = Math.max(0, ...xs) + 0.3;
    const frame = { log, x: [left, right], y: log ? [Math.log10(low) - 0.2, Math.log10(high) + 0.15] : [0, 1.08 * high || 1], width: width - 72, height: 350 };
    frame.places = placeLabels(points, frame);
    return frame;
  }

  function trace(points, frame, marker, label, unit) {
    const up = (p) => (p.interval ? p.interval.high - p.y : 0), down = (p) => (p.interval ? p.y - Math.max(p.interval.low, frame.log ? 1e-9 : 0) : 0);
    return {
      mode: "markers+text", x: points.map((p) => p.x), y: points.map((p) => p.y), marker, cliponaxis: false,
      text: points.map((p) => plain(p.row.name)), textposition: points.map((p) => frame.places.get(p)),
      error_y: { type: "data", symmetric: false, array: points.map(up), arrayminus: points.map(down), thickness: 1, width: 0, color: faded(color("quiet"), 0.7) },
      customdata: points.map((p) => [percent(p.x), p.row.verdict.split(":")[0]]),
      hovertemplate: `<b>%{text}</b><br>${plain(label)} %{y:.3~g} ${unit}<br>cost %{customdata[0]} of retraining<br>%{customdata[1]}<extra></extra>`,
    };
  }

  /* Each label takes the place with the least overlap with points and with labels placed before it. */
  function placeLabels(points, frame) {
    const across = (x) => ((Math.log10(x) - frame.x[0]) / (frame.x[1] - frame.x[0])) * frame.width;
    const down = (y) => (1 - ((frame.log ? Math.log10(y) : y) - frame.y[0]) / (frame.y[1] - frame.y[0])) * frame.height;
    const places = new Map(), taken = points.map((p) => ({ x: across(p.x) - 6, y: down(p.y) - 6, w: 12, h: 12 }));
    const overlap = (a, b) => Math.max(0, Math.min(a.x + a.w, b.x + b.w) - Math.max(a.x, b.x)) * Math.max(0, Math.min(a.y + a.h, b.y + b.h) - Math.max(a.y, b.y));
    const outside = (box) => 30 * (Math.max(0, -box.x) + Math.max(0, box.x + box.w - frame.width) + Math.max(0, -box.y) + Math.max(0, box.y + box.h - frame.height));
    for (const p of points) {
      const w = 7.2 * p.row.name.length, h = 15, x = across(p.x), y = down(p.y);
      const boxes = {
        "middle right": { x: x + 8, y: y - h / 2, w, h }, "middle left": { x: x - 8 - w, y: y - h / 2, w, h },
        "top center": { x: x - w / 2, y: y - 8 - h, w, h }, "bottom center": { x: x - w / 2, y: y + 8, w, h },
        "top right": { x: x + 4, y: y - 6 - h, w, h }, "bottom right": { x: x + 4, y: y + 6, w, h },
        "top left": { x: x - 4 - w, y: y - 6 - h, w, h }, "bottom left": { x: x - 4 - w, y: y + 6, w, h },
      };
      const price = (box) => taken.reduce((sum, other) => sum + overlap(box, other), outside(box));
      const best = Object.keys(boxes).reduce((a, b) => (price(boxes[b]) < price(boxes[a]) ? b : a));
      places.set(p, best);
      taken.push(boxes[best]);
    }
    return places;
  }

  function shapes(band, idle) {
    const line = { type: "line", xref: "paper", x0: 0, x1: 1, line: { color: color("quiet"), width: 1, dash: "dot" } };
    const found = [{ type: "line", yref: "paper", y0: 0, y1: 1, x0: 1, x1: 1, layer: "below", line: { color: color("quiet"), width: 1, dash: "dot" } }];
    if (band) found.push({ type: "rect", xref: "paper", x0: 0, x1: 1, y0: Math.max(band[0], 1e-9), y1: band[1], layer: "below", line: { width: 0 }, fillcolor: faded(color("band"), 0.45) });
    if (idle !== undefined) found.push({ ...line, y0: idle, y1: idle });
    return found;
  }

  function notes(band, idle, frame) {
    const at = (y) => (frame.log ? Math.log10(y) : y);
    const note = { xref: "paper", x: 0.005, xanchor: "left", showarrow: false, font: { color: color("quiet"), size: 11.5 } };
    const found = [];
    if (band) found.push({ ...note, text: "retrained band", yref: "paper", y: 0, yanchor: "bottom" });
    if (idle !== undefined) found.push({ ...note, text: "original: costs nothing", y: at(idle), yanchor: "bottom" });
    return found;
  }

  /* Sorting: the pinned rows stay, rows without the number go last. */

  function sortBy(table, column, head) {
    const ascending = head.getAttribute("aria-sort") !== "ascending";
    for (const other of table.querySelectorAll("thead th")) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const body = table.querySelector("tbody.sortable");
    const key = (row) => {
      const cell = row.cells[column];
      if (column === 0) return cell.querySelector("bdi").textContent;
      return cell && cell.dataset.sort !== "" && cell.colSpan === 1 ? Number(cell.dataset.sort) : null;
    };
    const compare = (a, b) => {
      if (a.key === null || b.key === null) return (a.key === null) - (b.key === null);
      const order = column === 0 ? a.key.localeCompare(b.key) : a.key - b.key;
      return ascending ? order : -order;
    };
    body.append(...[...body.rows].map((row) => ({ row, key: key(row) })).sort(compare).map((item) => item.row));
  }

  function save(name, text) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  function fill(select, names, label = (name) => name) {
    for (const name of names) select.append(new Option(label(name), name));
  }

  function prepare(article) {
    const record = records[Number(article.dataset.record)];
    const draw = () => {
      if (article.querySelector(".loss-chart")) drawHistograms(article, record);
      drawScatter(article, record);
    };
    if (article.querySelector(".loss-chart")) {
      const rows = Object.keys(record.histograms.loss.rows).filter((name) => name !== "original" && name !== "retrained");
      const first = record.table.rows.find((row) => rows.includes(row.name) && kindOf(row) === "open");
      fill(article.querySelector(".histogram-row"), rows);
      if (first) article.querySelector(".histogram-row").value = first.name;
      article.querySelector(".histogram-row").hidden = !rows.length;
    }
    fill(article.querySelector(".closeness"), closenesses(record), (name) => (record.table.metrics[name] || { label: name }).label);
    for (const select of article.querySelectorAll("select")) select.addEventListener("change", draw);
    const table = article.querySelector(".results");
    table.querySelectorAll("thead th").forEach((head, column) => head.querySelector("button").addEventListener("click", () => sortBy(table, column, head)));
    article.querySelector(".save-json").addEventListener("click", () => save("record.json", JSON.stringify(record, null, 1)));
    return { article, draw, drawn: false };
  }

  const parts = [...document.querySelectorAll("article")].map(prepare);
  const drawOnce = (part) => {
    if (!part.drawn) part.draw();
    part.drawn = true;
  };
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) drawOnce(parts.find((part) => part.article === entry.target));
  }, { rootMargin: "800px" });
  /* A chart's labels are placed for its width, so another width means drawing again. */
  const resized = new ResizeObserver((entries) => {
    for (const entry of entries) {
      const part = parts.find((held) => held.article === entry.target), width = Math.round(entry.contentRect.width);
      if (part.drawn && part.width !== width) requestAnimationFrame(part.draw);
      part.width = width;
    }
  });
  for (const part of parts) {
    watcher.observe(part.article);
    resized.observe(part.article);
  }
  const redraw = () => parts.filter((part) => part.drawn).forEach((part) => part.draw());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  matchMedia("print").addEventListener("change", redraw);
  /* On paper nothing can be unfolded. */
  const folded = [];
  addEventListener("beforeprint", () => {
    parts.forEach(drawOnce);
    for (const details of document.querySelectorAll("details:not([open])")) {
      details.open = true;
      folded.push(details);
    }
  });
  addEventListener("afterprint", () => folded.splice(0).forEach((details) => (details.open = false)));
})();
