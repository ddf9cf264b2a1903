"use strict";
(() => {
  /* Theme: as the system, dark, light. Kept for the next time where the browser allows it. */

  const root = document.documentElement;
  const THEMES = { "": "as the system", dark: "dark", light: "light" };
  const kept = (act) => { try { return act(localStorage); } catch { return null; } };

  function setTheme(theme) {
    if (theme) root.dataset.theme = theme;
    else delete root.dataset.theme;
    document.querySelector(".theme").setAttribute("aria-label", `Colours: ${THEMES[theme]}`);
    kept((storage) => storage.setItem("expunge-theme", theme));
  }
  setTheme(kept((storage) => storage.getItem("expunge-theme")) || "");
  const nextTheme = { "": "dark", dark: "light", light: "" };

  /* Everything else waits until the page has been painted once. */

  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  let records, figures, states = [];

  const color = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();
  const faded = (hex, share) => hex + Math.round(255 * share).toString(16).padStart(2, "0");
  /* Plotly reads a little HTML in labels; names are shown as they are. */
  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const clipped = (text, most = 22) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);
  const minus = (text) => String(text).replace("-", "−");
  const percent = (ratio) => `${Number((100 * ratio).toPrecision(2))} %`;
  const share = (part) => `${(100 * part).toFixed(1)} %`;
  const sum = (values) => values.reduce((a, b) => a + b, 0);
  const mean = (values) => sum(values) / values.length;
  const range = (count) => [...Array(count).keys()];
  const make = (tag, text, ...classes) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    made.classList.add(...classes);
    return made;
  };

  const options = (name) => ({
    displaylogo: false, displayModeBar: "hover", modeBarButtons: [["toImage"]], toImageButtonOptions: { format: "svg", filename: name },
  });

  function layout(more) {
    const axis = { color: color("quiet"), gridcolor: color("line"), linecolor: color("line"), zeroline: false, fixedrange: true };
    const base = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest", dragmode: false, showlegend: true,
      font: { family: getComputedStyle(document.body).fontFamily, size: 12.5, color: color("ink") },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: color("quiet"), activecolor: color("ink") },
      hoverlabel: { bgcolor: color("panel"), bordercolor: color("line"), font: { color: color("ink") } },
      legend: { orientation: "h", x: 0, xanchor: "left", y: 1.02, yanchor: "bottom" }, margin: { l: 56, r: 14, t: 34, b: 48 },
    };
    const merged = { ...base, ...more };
    for (const name of Object.keys(merged)) if (/^[xy]axis/.test(name)) merged[name] = { ...axis, automargin: /^y/.test(name), ...merged[name] };
    return merged;
  }

  /* The three models that most figures set side by side; colour is never the only difference. */

  const ROLES = {
    original: { dash: "dot", symbol: "square-open" },
    unlearned: { dash: "solid", symbol: "circle" },
    retrained: { dash: "dash", symbol: "diamond-open" },
  };
  const look = (role) => ({ line: { color: color(role), width: role === "unlearned" ? 2.6 : 2, dash: ROLES[role].dash }, marker: { color: color(role), symbol: ROLES[role].symbol, size: 8 } });
  const trio = (state, rows) => [["original", "original"], ["unlearned", state.row], ["retrained", "retrained"]].filter(([, name]) => name in rows);

  /* Losses and margins, with the threshold of an attack. */

  function histogram(state) {
    const fine = state.held.losses, scale = state.article.querySelector(".scale input:checked");
    if (fine.reason) return { ...state.record.histograms.loss, name: "loss", shares: (values) => values };
    const name = scale.value;
    return { ...fine[name], name, shares: (values) => { const all = sum(values) || 1; return values.map((value) => value / all); } };
  }

  function drawLosses(state, target) {
    const { edges, rows, name, shares } = histogram(state);
    const strips = trio(state, rows), part = 1 / strips.length, gap = 0.085, loss = name === "loss";
    const values = strips.map(([, row]) => Object.fromEntries(Object.entries(rows[row]).map(([key, counts]) => [key, shares(counts)])));
    /* Losses below the first edge may be a third of all; the rest would be flat beside them, so that bar is cut and its height said. */
    const highest = Math.max(0.01, ...values.flatMap((held) => Object.values(held).flatMap((counts) => counts.slice(loss ? 1 : 0))));
    const figure = { data: [], layout: { annotations: [], shapes: thresholdLine(state, edges, loss) } };
    strips.forEach(([, row], at) => {
      const top = 1 - at * part;
      figure.data.push(...strip(edges, values[at], at ? `y${at + 1}` : "y", at === 0, loss ? "nats" : "of margin", row));
      figure.layout[at ? `yaxis${at + 1}` : "yaxis"] = {
        domain: [top - part + (at === strips.length - 1 ? 0 : gap / 2), top - gap], range: [0, 1.08 * highest], tickformat: "~%", nticks: 4, showline: false,
      };
      const below = loss ? ` <span style="color:${color("quiet")}">in the first bin: ${Object.keys(values[at]).map((key) => `${key} ${share(values[at][key][0])}`).join(", ")}</span>` : "";
      figure.layout.annotations.push({ text: `<b>${plain(row)}</b>${target.clientWidth > 600 ? below : ""}`, xref: "paper", yref: "paper", x: 0, y: top - gap, xanchor: "left", yanchor: "bottom", showarrow: false });
    });
    const wide = target.clientWidth > 600;
    figure.layout.xaxis = {
      title: { text: loss ? "loss in nats" : "margin: log-odds of the true class", standoff: 8 }, anchor: strips.length > 1 ? `y${strips.length}` : "y", ticks: "outside",
      ...(loss ? { type: "log", range: [Math.log10(edges[0]), Math.log10(edges.at(-1))], dtick: wide ? 1 : 2, exponentformat: "none" } : { range: [edges[0], edges.at(-1)] }),
    };
    figure.layout.margin = { l: wide ? 56 : 44, r: 12, t: 30, b: 48 };
    figure.layout.legend = { orientation: "h", x: 1, xanchor: "right", y: 0.97, yanchor: "bottom" };
    const classes = state.record.request.class_names.length;
    const ends = loss ? `The first bin also holds every loss below ${edges[0].toPrecision(2)}.` : "The first and the last bin also hold what lies beyond them.";
    const sizes = state.held.losses.sizes || {};
    const thin = Object.entries(sizes).filter(([, [shown, all]]) => shown < all).map(([key, [shown, all]]) => `${shown.toLocaleString("en")} of ${all.toLocaleString("en")} ${key} examples`);
    figure.note = `Shares of examples, all seeds together. ${ends} A model that guesses among ${classes} classes has a loss of ${Math.log(classes).toFixed(2)} nats.` +
      (thin.length ? ` Drawn from ${thin.join(", ")}, chosen at random.` : "");
    return figure;
  }

  function strip(edges, parts, axis, legend, unit, row) {
    const looks = {
      forget: { fill: "tozeroy", fillcolor: faded(color("forget"), 0.28), line: { color: color("forget"), width: 1.5 } },
      unseen: { line: { color: color("unseen"), width: 2, dash: "dot" } },
      retain: { line: { color: color("quiet"), width: 1 } },
    };
    return Object.keys(looks).filter((part) => part in parts).map((part) => {
      const { line, ...rest } = looks[part];
      return {
        x: edges, y: [...parts[part], parts[part].at(-1)], yaxis: axis, name: part, legendgroup: part, showlegend: legend, mode: "lines", meta: row,
        line: { shape: "hv", ...line }, ...rest, hovertemplate: `${part}: %{y:.1%} from %{x:.2g} ${unit}<extra></extra>`,
      };
    });
  }

  function thresholdLine(state, edges) {
    const slider = state.article.querySelector(".threshold");
    if (!slider) return [];
    const at = edges[Number(slider.value)];
    return [{ type: "line", x0: at, x1: at, yref: "paper", y0: 0, y1: 1, line: { color: color("ink"), width: 1.5 } }];
  }

  /* What an attack at the threshold calls trained on: exact, for the threshold is an edge of the bins. */
  function fillAttack(state) {
    const slider = state.article.querySelector(".threshold");
    if (!slider) return;
    const { edges, rows, name } = histogram(state), at = Number(slider.value), loss = name === "loss";
    const called = (counts) => sum(loss ? counts.slice(0, at) : counts.slice(at)) / sum(counts);
    const words = loss ? `loss below ${edges[at].toPrecision(3)} nats` : `margin of ${minus(edges[at].toPrecision(3))} or more`;
    state.article.querySelector(".threshold-at").textContent = words;
    slider.setAttribute("aria-valuetext", words);
    const body = state.article.querySelector(".attack-table tbody");
    body.replaceChildren(...trio(state, rows).map(([role, row]) => {
      const line = make("tr"), head = make("th");
      head.scope = "row";
      head.append(make("span", "", "swatch", role), make("bdi", row));
      line.append(head);
      const found = Object.fromEntries(Object.entries(rows[row]).map(([part, counts]) => [part, called(counts)]));
      for (const value of [found.forget, found.unseen, found.retain]) {
        const cell = make("td", value === undefined ? "–" : share(value));
        if (value !== undefined) cell.dataset.number = value;
        line.append(cell);
      }
      const gain = make("td", found.unseen === undefined ? "–" : `${minus((100 * (found.forget - found.unseen)).toFixed(1))} points`);
      if (found.unseen !== undefined) gain.dataset.number = found.forget - found.unseen;
      line.append(gain);
      return line;
    }));
  }

  /* ROC curves. */

  function drawRoc(state) {
    const { fpr, rows, negatives } = state.held.roc, data = [{ x: [fpr[0], 1], y: [fpr[0], 1], mode: "lines", name: "guessing", line: { color: color("quiet"), width: 1, dash: "dot" }, hoverinfo: "skip" }];
    const floor = fpr[0] / 4, shown = trio(state, rows);
    for (const [role, row] of shown) {
      const held = rows[row], up = (values) => values.map((value) => Math.max(value, floor));
      if (held.low) data.push({ x: [...fpr, ...[...fpr].reverse()], y: [...up(held.high), ...up(held.low).reverse()], fill: "toself", fillcolor: faded(color(role), 0.16), line: { width: 0 }, mode: "lines", hoverinfo: "skip", showlegend: false, legendgroup: role });
      data.push({ x: [...fpr, 1], y: [...up(held.tpr), 1], mode: "lines", name: plain(row), legendgroup: role, line: look(role).line, hovertemplate: `${plain(row)}: finds %{y:.1%} at %{x:.2%} false alarms<extra></extra>` });
    }
    const axis = (title) => ({ type: "log", range: [Math.log10(fpr[0]) - 0.03, 0.02], title: { text: title, standoff: 8 }, tickformat: "~%", dtick: 1 });
    const areas = shown.map(([, row]) => `${row} ${rows[row].auc.toFixed(3)}${rows[row].auc_low === null ? "" : ` (${rows[row].auc_low.toFixed(3)} to ${rows[row].auc_high.toFixed(3)})`}`);
    return {
      data, layout: { xaxis: axis("unseen examples called trained on"), yaxis: { ...axis("forget examples called trained on"), range: [Math.log10(floor), 0.02] } },
      note: `Area under the curve: ${areas.join(", ")}. Shaded: 95 % interval of the mean over models. Below ${share(fpr[0])} false alarms ${negatives.toLocaleString("en")} unseen examples measure nothing.`,
    };
  }

  /* Single examples. */

  function drawExamples(state) {
    const { edges, rows, null: band } = state.held.examples, data = [];
    const step = (row, more) => ({ x: edges, y: [...rows[row].shares, rows[row].shares.at(-1)], mode: "lines", name: plain(row), hovertemplate: `${plain(row)}: %{y:.1%} from %{x:.2f}<extra></extra>`, ...more });
    if (rows.retrained) data.push(step("retrained", { name: "retrained among themselves", fill: "tozeroy", fillcolor: faded(color("band"), 0.55), line: { shape: "hv", color: color("quiet"), width: 1 } }));
    for (const [role, row] of trio(state, rows)) if (role !== "retrained") data.push(step(row, { line: { shape: "hv", ...look(role).line } }));
    const told = trio(state, rows).filter(([role]) => role !== "retrained").map(([, row]) => `${share(rows[row].told_apart)} for ${row}`);
    return {
      data, layout: { xaxis: { range: [0, 1], title: { text: "AUC of an example: 0 forgotten beyond retraining, 1 still remembered", standoff: 8 } }, yaxis: { tickformat: "~%", rangemode: "tozero", title: { text: "share of examples" } } },
      note: `Outside the middle 95 % of retrained models among themselves (${band[0].toFixed(2)} to ${band[1].toFixed(2)}), where 5 % are expected: ${told.join(", ")}.`,
    };
  }

  function fillGallery(state) {
    const place = state.article.querySelector(".gallery");
    if (!place) return;
    const { by, rows } = state.held.gallery, held = rows[state.row], names = state.held.classes;
    const heads = { remembered: "Still remembered", overdone: "Forgotten beyond retraining" };
    place.replaceChildren(...Object.entries(heads).map(([end, words]) => {
      const part = make("div"), list = make("ul", undefined, "cards");
      part.append(make("h4", words));
      const entries = held ? held[end] : [];
      if (!entries.length) part.append(make("p", "None: no example lies on this side.", "quiet"));
      for (const entry of entries) {
        const item = make("li");
        item.dataset.index = entry.index;
        item.append(picture(state, entry.index, names[entry.label]), exampleWords(entry, names, by));
        list.append(item);
      }
      part.append(list);
      return part;
    }));
  }

  function picture(state, index, label) {
    const link = state.held.pictures[index];
    if (!link) return make("span", "no picture", "no-picture");
    const image = make("img");
    Object.assign(image, { src: link, alt: `example ${index}, ${label}`, width: 56, height: 56 });
    return image;
  }

  function exampleWords(entry, names, by) {
    const box = make("div"), list = make("dl", undefined, "says");
    box.append(make("strong", names[entry.label]), make("small", ` no. ${entry.index}, ${by === "auc" ? `AUC ${entry.score.toFixed(2)}` : `${minus((100 * entry.score).toFixed(1))} points`}`));
    for (const [model, [answer, sure]] of Object.entries(entry.said)) {
      const right = answer === entry.label, line = make("div");
      line.append(make("dt", model), make("dd", `${right ? "right" : names[answer]}, ${Math.round(100 * sure)} %`));
      list.append(line);
    }
    box.append(list);
    return box;
  }

  /* Where answers go. */

  const heatScale = () => [[0, color("paper")], [1, color("heat")]];
  const onHeat = (value) => (value > 0.55 ? color("on-heat") : color("ink"));

  function drawConfusion(state, target) {
    const { true: truth, predicted, rows, thinned } = state.held.confusion, shown = trio(state, rows), wide = target.clientWidth > 700;
    const rest = thinned ? " The classes with most forget examples and most answers are shown." : "";
    if (truth.length <= 2) {
      const data = shown.map(([role, row]) => ({
        type: "bar", name: plain(row), x: predicted.map(plain), y: predicted.map((_, at) => mean(rows[row].map((line) => line[at]))), marker: { color: faded(color(role), 0.85), pattern: { shape: { original: "/", unlearned: "", retrained: "x" }[role], fgcolor: color("paper"), fillmode: "overlay", solidity: 0.25 } },
        hovertemplate: `${plain(row)} answers %{x} to %{y:.1%}<extra></extra>`,
      }));
      return { data, layout: { barmode: "group", xaxis: { type: "category", tickangle: wide ? 0 : -60, automargin: true }, yaxis: { tickformat: "~%", rangemode: "tozero" } }, note: `Answers to forgotten examples of ${truth.join(" and ")}; mean over models.${rest}` };
    }
    const figure = { data: [], layout: { annotations: [], showlegend: false, margin: { l: 84, r: 10, t: 28, b: 84 } }, note: `Each line adds to 100 %: of the forgotten examples of one class, how many get which answer; mean over models.${rest}` };
    const count = shown.length, gap = wide ? 0.02 : 0.12;
    shown.forEach(([, row], at) => {
      const suffix = at ? at + 1 : "", start = at / count;
      const domain = [start + (at ? gap / 2 : 0), start + 1 / count - (at < count - 1 ? gap / 2 : 0)];
      figure.data.push({ type: "heatmap", meta: row, z: rows[row], x: predicted.map((name) => plain(clipped(name, 12))), y: truth.map((name) => plain(clipped(name, 12))), xaxis: `x${suffix}`, yaxis: `y${suffix}`, zmin: 0, zmax: 1, colorscale: heatScale(), showscale: false, xgap: 1, ygap: 1, hovertemplate: "%{y} answered %{x}: %{z:.1%}<extra></extra>" });
      figure.layout[`xaxis${suffix}`] = { type: "category", tickangle: -60, dtick: 1, showgrid: false, anchor: `y${suffix}`, ...(wide ? { domain } : {}), ...(wide || at === count - 1 ? {} : { showticklabels: false }) };
      figure.layout[`yaxis${suffix}`] = { type: "category", dtick: 1, autorange: "reversed", showgrid: false, anchor: `x${suffix}`, showticklabels: !wide || at === 0, ...(wide ? {} : { domain: [1 - domain[1], 1 - domain[0]] }) };
      figure.layout.annotations.push({ text: `<b>${plain(row)}</b>`, xref: "paper", yref: "paper", x: wide ? domain[0] : 0, y: wide ? 1 : 1 - domain[0], xanchor: "left", yanchor: "bottom", showarrow: false });
      rows[row].forEach((line, y) => line.forEach((value, x) => value >= 0.05 && figure.layout.annotations.push({ text: Math.round(100 * value), x, y, xref: `x${suffix}`, yref: `y${suffix}`, showarrow: false, font: { size: 10.5, color: onHeat(value) } })));
    });
    return figure;
  }

  /* Inside. */

  const blockNames = (state) => state.held.inside.blocks.map((name) => plain(name.replace(/^net\./, "")));
  const blockAxis = (state) => ({ type: "category", tickangle: state.held.inside.blocks.length > 5 || state.article.clientWidth < 600 ? -45 : 0, automargin: true });

  function blockLines(state, key, words, floor) {
    const { rows } = state.held.inside, held = rows[state.row] || {}, x = blockNames(state), data = [];
    const floorValues = (state.held.inside.floor || {})[floor];
    if (floorValues) data.push({ x, y: floorValues, name: "two retrained models", mode: "lines+markers", line: { color: color("quiet"), width: 1.5, dash: "dot" }, marker: { size: 5 } });
    for (const role of ["original", "retrained"]) if (held[`${key}_${role}`]) data.push({ x, y: held[`${key}_${role}`], name: `to ${role}`, mode: "lines+markers", ...look(role) });
    return { data, layout: { xaxis: blockAxis(state), yaxis: { rangemode: "tozero", title: { text: words } } } };
  }

  const absentRow = (state) => (state.held.inside.rows[state.row] && state.held.inside.rows[state.row].probe ? "" : ` ${state.row} has another shape or no model, and is not drawn.`);

  function drawCka(state) {
    const figure = blockLines(state, "cka", "alignment (CKA)", "cka");
    return { ...figure, note: `Of ${state.row}: 1 is the same up to rotation. Unbiased, on the same examples.${absentRow(state)}` };
  }

  function drawDistance(state) {
    const figure = blockLines(state, "distance", "distance, share of the other's length", "distance");
    return { ...figure, note: `Of ${state.row}. Models of different seeds lie far apart whatever they know.${absentRow(state)}` };
  }

  function drawProbe(state) {
    const { rows } = state.held.inside, x = blockNames(state);
    const data = trio(state, rows).filter(([, row]) => rows[row].probe).map(([role, row]) => ({ x, y: rows[row].probe, name: plain(row), mode: "lines+markers", ...look(role) }));
    return { data, layout: { xaxis: blockAxis(state), yaxis: { tickformat: "~%", title: { text: "forget examples named" } } }, note: `A ridge classifier on each block's outputs that saw other examples. The good value is the retrained model's.${absentRow(state)}` };
  }

  function drawMoved(state) {
    const { rows } = state.held.inside, held = rows[state.row] || {};
    const data = held.moved ? [{ type: "bar", x: blockNames(state), y: held.moved, name: plain(state.row), marker: { color: faded(color("unlearned"), 0.85) }, text: held.moved.map(percent), textposition: "outside", cliponaxis: false }] : [];
    return { data, layout: { showlegend: false, xaxis: blockAxis(state), yaxis: { tickformat: ".0%", range: [0, 1.12], title: { text: "weights that moved" } } }, note: `Of ${state.row}: weights that are not bit for bit those of the original. A mask shows here.${absentRow(state)}` };
  }

  const PALETTE = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8a8f98", "#b8a800", "#7b61c4", "#4d4d4d"];

  function drawMap(state, target) {
    const { map } = state.held.inside, kind = state.article.querySelector(".flat input:checked").value, shown = trio(state, map.rows), wide = target.clientWidth > 700;
    const names = state.held.classes, classes = [...new Set(map.label)].sort((a, b) => a - b), colored = classes.length <= PALETTE.length;
    const figure = { data: [], layout: { annotations: [], showlegend: colored, margin: { l: 10, r: 10, t: 34, b: wide ? 70 : 110 }, legend: { orientation: "h", x: 0, y: -0.04, yanchor: "top" } } };
    shown.forEach(([, row], at) => {
      const suffix = at ? at + 1 : "", start = at / shown.length, domain = [start + 0.01, start + 1 / shown.length - 0.01];
      for (const [place, label] of (colored ? classes : [null]).entries()) for (const forget of [false, true]) {
        const chosen = range(map.label.length).filter((k) => map.forget[k] === forget && (label === null || map.label[k] === label));
        if (!chosen.length) continue;
        const tone = PALETTE[place % PALETTE.length], points = map.rows[row][kind];
        figure.data.push({
          x: chosen.map((k) => points[k][0]), y: chosen.map((k) => points[k][1]), xaxis: `x${suffix}`, yaxis: `y${suffix}`, mode: "markers", meta: row,
          name: plain(label === null ? (forget ? "forget" : "retain") : clipped(names[label], 16)), legendgroup: String(label), showlegend: at === 0 && (!forget || !map.label.some((other, k) => other === label && !map.forget[k])),
          marker: forget ? { color: tone, size: 8, symbol: "diamond", line: { color: color("ink"), width: 1 } } : { color: tone, size: 5.5, opacity: 0.6 },
          customdata: chosen.map((k) => map.index[k]), hovertemplate: `${forget ? "forget" : "retain"} no. %{customdata}: ${plain(names[label ?? 0] ?? "")}<extra></extra>`,
        });
      }
      const axis = { showticklabels: false, showgrid: false, showline: true, mirror: true };
      figure.layout[`xaxis${suffix}`] = { ...axis, anchor: `y${suffix}`, ...(wide ? { domain } : {}) };
      figure.layout[`yaxis${suffix}`] = { ...axis, anchor: `x${suffix}`, ...(wide ? {} : { domain: [1 - domain[1] + 0.03, 1 - domain[0] - 0.03] }) };
      const parts = kind === "pca" ? ` <span style="color:${color("quiet")}">${share(sum(map.rows[row].variance))} of variance</span>` : "";
      figure.layout.annotations.push({ text: `<b>${plain(row)}</b>${parts}`, xref: "paper", yref: "paper", x: wide ? domain[0] : 0, y: wide ? 1 : 1 - domain[0] - 0.03, xanchor: "left", yanchor: "bottom", showarrow: false });
    });
    const many = map.forget.filter(Boolean).length;
    figure.note = `◆ ${many} forget examples, ● ${map.forget.length - many} retained neighbours, chosen at random. Each model has its own map; only the shape of the clouds can be compared.${kind === "tsne" ? " t-SNE keeps neighbours, not distances." : ""}`;
    return figure;
  }

  function drawRelearning(state) {
    const { rows } = state.held.relearning, shown = trio(state, rows).map(([, row]) => row);
    const data = Object.keys(rows).filter((row) => !shown.includes(row)).map((row) => ({ x: range(rows[row].curve.length), y: rows[row].curve, name: plain(row), mode: "lines", line: { color: faded(color("quiet"), 0.5), width: 1 }, showlegend: false, hovertemplate: `${plain(row)}: %{y:.1%}<extra></extra>` }));
    for (const [role, row] of trio(state, rows)) data.push({ x: range(rows[row].curve.length), y: rows[row].curve, name: plain(row), mode: "lines+markers", ...look(role), error_y: rows[row].spread ? { type: "data", array: rows[row].spread, thickness: 1, width: 3 } : undefined, hovertemplate: `${plain(row)}: %{y:.1%} after %{x}<extra></extra>` });
    const steps = shown.filter((row) => rows[row].steps !== null).map((row) => `${row} ${rows[row].steps.toFixed(1)}${rows[row].censored ? ` (${rows[row].censored} of ${rows[row].models} never)` : ""}`);
    return { data, layout: { xaxis: { title: { text: "epochs of training on retained data", standoff: 8 }, dtick: 1 }, yaxis: { tickformat: "~%", title: { text: "forget examples answered right" } } }, note: `Mean over models with its 95 % interval; thin lines are the other rows.${steps.length ? ` Steps on forget examples until the original's accuracy is back: ${steps.join(", ")}.` : ""}` };
  }

  /* Along the way. */

  const GROUPS = { losses: "losses", lr: "learning rate", passes: "passes", seconds: "seconds", values: "values" };

  function groupsOf(state) {
    const runs = state.held.epochs.rows[state.row] || [];
    return [...new Set(runs.flatMap((run) => Object.keys(run.series)))];
  }

  function curvesOf(runs, group) {
    const names = [...new Set(runs.flatMap((run) => Object.keys(run.series[group] || {})))], data = [];
    names.forEach((name, at) => {
      const tone = PALETTE[at % PALETTE.length], dash = ["solid", "dash", "dot", "dashdot"][Math.floor(at / PALETTE.length) % 4], held = runs.map((run) => (run.series[group] || {})[name]).filter(Boolean);
      if (held.length > 1) for (const points of held) data.push({ x: points.map((p) => p[0]), y: points.map((p) => p[1]), mode: "lines", line: { color: faded(tone, 0.35), width: 1 }, showlegend: false, hoverinfo: "skip", meta: "seed" });
      const epochs = [...new Set(held.flatMap((points) => points.map((p) => p[0])))].sort((a, b) => a - b);
      const average = epochs.map((epoch) => mean(held.flatMap((points) => points.filter((p) => p[0] === epoch).map((p) => p[1]))));
      data.push({ x: epochs, y: average, name: plain(name), mode: "lines+markers", line: { color: tone, width: 2.4, dash }, marker: { size: 6, symbol: at % 8 }, hovertemplate: `${plain(name)}: %{y:.4~g}<extra></extra>` });
    });
    return data;
  }

  const lastEpoch = (data) => Math.max(1, ...data.flatMap((trace) => trace.x));
  const wantsLog = (data) => { const values = data.flatMap((trace) => trace.y); return values.length > 1 && Math.min(...values) > 0 && Math.max(...values) / Math.min(...values) > 50; };

  function drawAlong(state) {
    const runs = state.held.epochs.rows[state.row] || [], group = state.article.querySelector(".series").value, data = curvesOf(runs, group);
    if (!runs.length) return { data: [], layout: {}, note: `${state.row} reported no epoch: it changes weights at once, or not at all.` };
    const starts = runs[0].phases.slice(1).map(([epoch]) => epoch - 0.5), line = { color: color("quiet"), width: 1, dash: "dot" };
    const phases = runs[0].phases.map(([epoch, name]) => ({ text: plain(clipped(name, 28)), x: epoch - 0.45, yref: "paper", y: 1, xanchor: "left", yanchor: "top", showarrow: false, font: { size: 11, color: color("quiet") } }));
    const edits = runs[0].edits.length ? ` Weights were changed at once by: ${runs[0].edits.map(([epoch, name]) => `${name} (after epoch ${epoch})`).join(", ")}.` : "";
    return {
      data, layout: { annotations: runs[0].phases.length > 1 ? phases : [], shapes: starts.map((x) => ({ type: "line", x0: x, x1: x, yref: "paper", y0: 0, y1: 1, line })), xaxis: { title: { text: "epoch of unlearning", standoff: 8 }, tick0: 1, dtick: Math.max(1, Math.ceil(lastEpoch(data) / 12)) }, yaxis: { title: { text: GROUPS[group] || group.replace(/_/g, " ") }, type: wantsLog(data) ? "log" : "linear", exponentformat: "power" } },
      note: `${state.row}: ${runs.length === 1 ? "one run" : `${runs.length} runs`}.${edits}`,
    };
  }

  function drawRowCurve(state, target) {
    const runs = state.held.epochs.reason ? undefined : (state.held.epochs.rows || {})[target.dataset.row];
    if (!runs) { target.replaceChildren(make("p", "No curve: this row reported no epoch, or its run folders are gone.", "absent")); return null; }
    const data = curvesOf(runs, "losses");
    return { data, layout: { margin: { l: 50, r: 8, t: 40, b: 40 }, xaxis: { title: { text: "epoch of unlearning" }, tick0: 1, dtick: Math.max(1, Math.ceil(lastEpoch(data) / 8)) }, yaxis: { title: { text: "loss" }, type: wantsLog(data) ? "log" : "linear" } } };
  }

  function drawMeter(state, target) {
    const { costs } = state.held.epochs, rows = state.record.table.rows.map((row) => row.name).filter((name) => costs[name] && costs[name].some((one) => one.passes > 0)).reverse();
    const total = (row, key) => mean(costs[row].map((one) => one[key] || 0));
    const data = [{
      type: "bar", orientation: "h", y: rows.map((row) => plain(clipped(row))), x: rows.map((row) => total(row, "passes")), marker: { color: rows.map((row) => faded(color(row === "retrained" ? "retrained" : "unlearned"), 0.85)) },
      customdata: rows.map((row) => ["forward", "backward", "teacher", "seconds"].map((key) => total(row, key).toPrecision(4))), hovertemplate: "%{x:.4~g} passes: forward %{customdata[0]}, backward %{customdata[1]}, teacher %{customdata[2]}; %{customdata[3]} s<extra></extra>",
    }];
    target.style.height = `${Math.max(180, 60 + 22 * rows.length)}px`;
    return { data, layout: { showlegend: false, margin: { l: 150, r: 20, t: 8, b: 44 }, xaxis: { type: "log", title: { text: "passes, mean over models", standoff: 8 }, nticks: 8 }, yaxis: { showgrid: false } }, note: "A backward pass counts as two." };
  }

  /* Two models side by side. */

  function paired(state) {
    const held = state.held.pairs, [first, second, part] = [".first-model", ".second-model", ".compare-part"].map((name) => state.article.querySelector(name).value);
    const chosen = range(held.index.length).filter((k) => part === "all" || held.parts[held.part[k]] === part);
    return { held, first, second, chosen, part };
  }

  function drawPairs(state, target) {
    const { held, first, second, chosen } = paired(state), names = state.held.classes, a = held.rows[first].answer, b = held.rows[second].answer;
    const counts = new Map();
    for (const k of chosen) for (const answer of [a[k], b[k]]) counts.set(answer, (counts.get(answer) || 0) + 1);
    const classes = [...counts.keys()].sort((x, y) => counts.get(y) - counts.get(x)).slice(0, 15).sort((x, y) => x - y), place = new Map(classes.map((label, at) => [label, at]));
    const z = classes.map(() => classes.map(() => 0));
    for (const k of chosen) if (place.has(a[k]) && place.has(b[k])) z[place.get(a[k])][place.get(b[k])] += 1;
    const most = Math.max(1, ...z.flat()), label = classes.map((c) => plain(clipped(names[c], 14)));
    const annotations = z.flatMap((line, y) => line.map((value, x) => ({ text: value ? String(value) : "", x, y, showarrow: false, font: { size: 11, color: onHeat(value / most) } }))).filter((note) => note.text);
    target.style.maxWidth = "46rem";
    return {
      data: [{ type: "heatmap", z, x: label, y: label, colorscale: heatScale(), showscale: false, zmin: 0, zmax: most, xgap: 1, ygap: 1, hovertemplate: `${plain(first)} says %{y}, ${plain(second)} says %{x}: %{z}<extra></extra>` }],
      layout: { annotations, showlegend: false, margin: { l: 110, r: 10, t: 10, b: 100 }, xaxis: { type: "category", dtick: 1, title: { text: `${plain(second)} says` }, tickangle: -50, showgrid: false }, yaxis: { type: "category", dtick: 1, title: { text: `${plain(first)} says` }, autorange: "reversed", showgrid: false } },
      note: counts.size > classes.length ? `The ${classes.length} most frequent answers of ${counts.size}.` : "",
    };
  }

  function fillCompare(state) {
    const place = state.article.querySelector(".disagreements");
    if (!place) return;
    const { held, first, second, chosen, part } = paired(state), names = state.held.classes, [a, b] = [held.rows[first], held.rows[second]];
    const apart = chosen.filter((k) => a.answer[k] !== b.answer[k]);
    const right = (row) => chosen.filter((k) => row.answer[k] === held.label[k]).length;
    state.article.querySelector(".compare-words").textContent =
      `They agree on ${(chosen.length - apart.length).toLocaleString("en")} of ${chosen.length.toLocaleString("en")} ${part === "all" ? "" : `${part} `}examples (${share(1 - apart.length / chosen.length)}). ` +
      `Right: ${first} on ${share(right(a) / chosen.length)}, ${second} on ${share(right(b) / chosen.length)}. Seed ${a.seed}${a.seed === b.seed ? "" : ` and ${b.seed}`}.`;
    const shown = apart.sort((x, y) => (held.index[y] in state.held.pictures) - (held.index[x] in state.held.pictures)).slice(0, 24), list = make("ul", undefined, "cards");
    for (const k of shown) {
      const item = make("li"), box = make("div"), says = make("dl", undefined, "says");
      for (const [name, row] of [[first, a], [second, b]]) {
        const line = make("div");
        line.append(make("dt", name), make("dd", `${names[row.answer[k]]}, ${row.confidence[k]} %`));
        says.append(line);
      }
      box.append(make("strong", names[held.label[k]]), make("small", ` no. ${held.index[k]}, ${held.parts[held.part[k]]}`), says);
      item.append(picture(state, held.index[k], names[held.label[k]]), box);
      list.append(item);
    }
    const words = apart.length > shown.length ? [make("p", `${shown.length} of ${apart.length}, those with a picture first.`, "quiet")] : apart.length ? [] : [make("p", "None.", "quiet")];
    place.replaceChildren(...words, list);
  }

  /* Cost, closeness, utility. */

  const SHARE = "tests outside the band", LOST = "utility";
  const tests = (row) => Object.values(row.cells).filter((cell) => cell.tested && cell.in_band !== null);

  function closenesses(record) {
    const distances = Object.entries(record.table.metrics).filter(([, head]) => head.target === "zero_up_to_band").map(([name]) => name);
    const first = ["average_gap", "jensen_shannon"].filter((name) => distances.includes(name));
    return [...first, ...distances.filter((name) => !first.includes(name)), SHARE];
  }

  function closeness(row, name) {
    if (name !== SHARE) return row.cells[name];
    const held = tests(row);
    return held.length ? { value: (100 * held.filter((cell) => !cell.in_band).length) / held.length, interval: null, per_seed: [] } : undefined;
  }

  const accuracy = (row) => row.cells.test_accuracy;
  function lostAccuracy(state, row) {
    const reference = state.record.table.rows.find((each) => each.role === "retrained"), ours = accuracy(row);
    return reference && accuracy(reference) && ours ? accuracy(reference).value - ours.value : undefined;
  }

  const kindOf = (row) => (row.role !== "unlearned" ? "reference" : row.verdict.startsWith("fails") ? "fails" : row.verdict.startsWith("no evidence") ? "open" : "unjudged");

  function drawTradeoff(state, target) {
    const { record, article } = state, name = article.querySelector(".closeness").value, cost = article.querySelector(".cost").value;
    const head = record.table.metrics[name], label = head ? head.label : SHARE, unit = head ? head.unit : "%", utility = cost === LOST;
    const band = head ? head.band && [0, head.band.high] : [0, 100 * (1 - record.table.level)], points = [], missing = [];
    let idle;
    for (const row of record.table.rows) {
      const y = closeness(row, name), x = utility ? lostAccuracy(state, row) : (record.cost[row.name] || {})[cost];
      if (row.role === "original" && !utility) { if (y) idle = y.value; }
      else if (!y || x === undefined || x === null || (!utility && !(x > 0))) missing.push(row.name);
      else points.push({ row, x, y: y.value, interval: y.interval, cell: y, lost: lostAccuracy(state, row) });
    }
    const frame = scatterFrame(points, idle, band, target.clientWidth - 72, utility);
    const looks = {
      reference: { symbol: "square", size: 11, color: color("ink") }, fails: { symbol: "x", size: 10, color: color("out") },
      open: { symbol: "circle-open", size: 12, color: color("in"), line: { width: 2.5 } }, unjudged: { symbol: "diamond-open", size: 12, color: color("quiet"), line: { width: 2 } },
    };
    const seeds = article.querySelector(".with-seeds").checked ? seedPoints(state, points, cost, name) : { x: [], y: [], text: [] };
    const data = [{ ...front(points), mode: "lines", line: { color: faded(color("in"), 0.55), width: 1.5, shape: "hv" }, hoverinfo: "skip", name: "front", showlegend: false }];
    data.push({ ...seeds, mode: "markers", name: "seeds", marker: { size: 4.5, color: faded(color("quiet"), 0.5) }, hovertemplate: "%{text}<extra></extra>", showlegend: false });
    for (const kind of Object.keys(looks)) {
      const held = points.filter((p) => kindOf(p.row) === kind);
      if (held.length) data.push(trace(held, frame, looks[kind], label, unit, utility));
    }
    return {
      data, layout: {
        showlegend: false, margin: { l: 58, r: 14, t: 16, b: 52 }, shapes: shapes(band, idle, utility), annotations: notes(band, idle, frame),
        xaxis: utility ? { range: frame.x, title: { text: "test accuracy lost against retraining, points", standoff: 8 } } : { type: "log", range: frame.x, title: { text: "cost, share of retraining", standoff: 8 }, tickvals: [1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1, 10, 100], ticktext: ["0.001 %", "0.01 %", "0.1 %", "1 %", "10 %", "100 %", "10 ×", "100 ×"] },
        yaxis: { type: frame.log ? "log" : "linear", range: frame.y, nticks: 6, title: { text: `${plain(label)}${unit ? ` in ${unit}` : ""}` }, ...(frame.log ? { dtick: "D2", exponentformat: "none" } : {}) },
      },
      note: `○ no evidence of failure, ✕ fails, ${points.some((p) => kindOf(p.row) === "unjudged") ? "◇ no verdict, " : ""}■ reference. ` +
        (band ? `The grey band is where ${head ? "new retrained models would lie" : "chance alone would put a retrained model"}. ` : "There is no band to compare with. ") +
        (missing.length ? `Not drawn, for want of a cost or a value: ${missing.length > 8 ? `${missing.length} rows` : missing.join(", ")}.` : ""),
    };
  }

  function seedPoints(state, points, cost, name) {
    const found = { x: [], y: [], text: [] }, costs = state.held.epochs.costs || {}, key = { seconds_ratio: "seconds", passes_ratio: "passes" }[cost];
    const base = key && costs.retrained ? mean(costs.retrained.map((one) => one[key])) : undefined;
    const reference = state.record.table.rows.find((each) => each.role === "retrained");
    for (const p of points) {
      if (p.row.role !== "unlearned") continue;
      p.cell.per_seed.forEach((y, seed) => {
        if (y === null) return;
        const own = (costs[p.row.name] || []).find((one) => one.seed === seed), ours = accuracy(p.row) && accuracy(p.row).per_seed[seed], theirs = reference && accuracy(reference) && accuracy(reference).per_seed[seed];
        const x = cost === LOST ? (typeof ours === "number" && typeof theirs === "number" ? theirs - ours : p.x) : base && own ? own[key] / base : p.x;
        found.x.push(x);
        found.y.push(y);
        found.text.push(`${plain(p.row.name)}, seed ${seed}: ${y.toPrecision(4)}`);
      });
    }
    return found;
  }

  /* The methods that no other beats on both axes; retraining is not among them. */
  function front(points) {
    const held = points.filter((p) => p.row.role === "unlearned").sort((a, b) => a.x - b.x || a.y - b.y), best = [];
    for (const p of held) if (!best.length || p.y < best.at(-1).y) best.push(p);
    return { x: best.map((p) => p.x), y: best.map((p) => p.y) };
  }

  function scatterFrame(points, idle, band, width, utility) {
    const xs = points.map((p) => (utility ? p.x : Math.log10(p.x)));
    const ends = points.flatMap((p) => [p.y, p.interval ? p.interval.high : p.y]).concat(idle ?? [], band ? band[1] : []);
    const values = points.map((p) => p.y).concat(idle ?? [], band ? band[1] : []);
    const low = Math.min(...values), high = Math.max(...values, Math.min(Math.max(...ends), 1.3 * Math.max(...values)));
    const log = low > 0 && high / low > 30;
    const span = utility ? Math.max(0.5, Math.max(...xs) - Math.min(...xs)) : 0;
    const left = utility ? Math.min(0, ...xs) - 0.12 * span : Math.min(-1, ...xs) - 0.25, right = utility ? Math.max(0, ...xs) + 0.18 * span : Math.max(0, ...xs) + 0.3;
    const frame = { log, utility, x: [left, right], y: log ? [Math.log10(low) - 0.2, Math.log10(high) + 0.15] : [0, 1.08 * high || 1], width, height: 350 };
    frame.places = placeLabels(points, frame);
    return frame;
  }

  function trace(points, frame, marker, label, unit, utility) {
    const up = (p) => (p.interval ? p.interval.high - p.y : 0), down = (p) => (p.interval ? p.y - Math.max(p.interval.low, frame.log ? 1e-9 : 0) : 0);
    const pale = (p) => Math.max(0.3, 1 - 0.07 * Math.max(0, p.lost ?? 0));
    return {
      mode: points.length > 40 ? "markers" : "markers+text", x: points.map((p) => p.x), y: points.map((p) => p.y), marker: { ...marker, opacity: points.map(pale) }, cliponaxis: false,
      text: points.map((p) => plain(clipped(p.row.name))), textposition: points.map((p) => frame.places.get(p)),
      error_y: { type: "data", symmetric: false, array: points.map(up), arrayminus: points.map(down), thickness: 1, width: 0, color: faded(color("quiet"), 0.7) },
      customdata: points.map((p) => [utility ? "" : `<br>cost ${percent(p.x)} of retraining`, p.row.verdict.split(":")[0], p.lost === undefined ? "unknown" : minus(p.lost.toFixed(1))]),
      hovertemplate: `<b>%{text}</b><br>${plain(label)} %{y:.3~g} ${unit}%{customdata[0]}<br>test accuracy lost %{customdata[2]} points<br>%{customdata[1]}<extra></extra>`,
    };
  }

  /* Each label takes the place with the least overlap with points and with labels placed before it. */
  function placeLabels(points, frame) {
    const places = new Map();
    if (points.length > 40) return places;
    const across = (x) => (((frame.utility ? x : Math.log10(x)) - frame.x[0]) / (frame.x[1] - frame.x[0])) * frame.width;
    const down = (y) => (1 - ((frame.log ? Math.log10(y) : y) - frame.y[0]) / (frame.y[1] - frame.y[0])) * frame.height;
    const taken = points.map((p) => ({ x: across(p.x) - 6, y: down(p.y) - 6, w: 12, h: 12 }));
    const overlap = (a, b) => Math.max(0, Math.min(a.x + a.w, b.x + b.w) - Math.max(a.x, b.x)) * Math.max(0, Math.min(a.y + a.h, b.y + b.h) - Math.max(a.y, b.y));
    const outside = (box) => 30 * (Math.max(0, -box.x) + Math.max(0, box.x + box.w - frame.width) + Math.max(0, -box.y) + Math.max(0, box.y + box.h - frame.height));
    for (const p of points) {
      const w = 7.2 * Math.min(22, p.row.name.length), h = 15, x = across(p.x), y = down(p.y);
      const boxes = {
        "middle right": { x: x + 8, y: y - h / 2, w, h }, "middle left": { x: x - 8 - w, y: y - h / 2, w, h },
        "top center": { x: x - w / 2, y: y - 8 - h, w, h }, "bottom center": { x: x - w / 2, y: y + 8, w, h },
        "top right": { x: x + 4, y: y - 6 - h, w, h }, "bottom right": { x: x + 4, y: y + 6, w, h },
        "top left": { x: x - 4 - w, y: y - 6 - h, w, h }, "bottom left": { x: x - 4 - w, y: y + 6, w, h },
      };
      const price = (box) => taken.reduce((total, other) => total + overlap(box, other), outside(box));
      const best = Object.keys(boxes).reduce((a, b) => (price(boxes[b]) < price(boxes[a]) ? b : a));
      places.set(p, best);
      taken.push(boxes[best]);
    }
    return places;
  }

  function shapes(band, idle, utility) {
    const line = { color: color("quiet"), width: 1, dash: "dot" }, at = utility ? 0 : 1;
    const found = [{ type: "line", yref: "paper", y0: 0, y1: 1, x0: at, x1: at, layer: "below", line }];
    if (band) found.push({ type: "rect", xref: "paper", x0: 0, x1: 1, y0: Math.max(band[0], 1e-9), y1: band[1], layer: "below", line: { width: 0 }, fillcolor: faded(color("band"), 0.45) });
    if (idle !== undefined) found.push({ type: "line", xref: "paper", x0: 0, x1: 1, y0: idle, y1: idle, line });
    return found;
  }

  function notes(band, idle, frame) {
    const at = (y) => (frame.log ? Math.log10(y) : y), note = { xref: "paper", x: 0.005, xanchor: "left", showarrow: false, font: { color: color("quiet"), size: 11.5 } }, found = [];
    if (band) found.push({ ...note, text: "retrained band", yref: "paper", y: 0, yanchor: "bottom" });
    if (idle !== undefined) found.push({ ...note, text: "original: costs nothing", y: at(idle), yanchor: "bottom" });
    return found;
  }

  /* The leaderboard: the pinned rows stay, rows without the number go last. */

  function sortBy(table, column, head) {
    const ascending = head.getAttribute("aria-sort") !== "ascending";
    for (const other of table.querySelectorAll("thead th")) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const key = (body) => {
      if (column === 0) return body.dataset.row;
      const cell = body.rows[0].cells[column], text = cell && (cell.dataset.seed ?? cell.dataset.sort);
      return cell && text !== "" && cell.colSpan === 1 ? Number(text) : null;
    };
    const compare = (a, b) => {
      if (a.key === null || b.key === null) return (a.key === null) - (b.key === null);
      const order = column === 0 ? a.key.localeCompare(b.key) : a.key - b.key;
      return ascending ? order : -order;
    };
    table.append(...[...table.querySelectorAll("tbody.method")].map((body) => ({ body, key: key(body) })).sort(compare).map((item) => item.body));
  }

  function filterRows(article) {
    const value = (name) => article.querySelector(name)?.value ?? "", family = value(".by-family"), addon = value(".by-addon"), part = value(".by-name").toLowerCase();
    const bodies = [...article.querySelectorAll(".results tbody.method")];
    for (const body of bodies)
      body.hidden = (family && body.dataset.family !== family) || (addon && !body.dataset.addons.split(" ").includes(addon)) || !body.dataset.row.toLowerCase().includes(part);
    const left = bodies.filter((body) => !body.hidden).length;
    article.querySelector(".shown").textContent = left === bodies.length ? "" : `${left} of ${bodies.length} methods`;
  }

  function showSeed(state) {
    const select = state.article.querySelector(".by-seed"), table = state.article.querySelector(".results");
    const seed = select && select.value !== "" ? Number(select.value) : null, rows = new Map(state.record.table.rows.map((row) => [row.name, row]));
    table.classList.toggle("single-seed", seed !== null);
    const heads = [...table.querySelectorAll("thead th")];
    for (const line of table.querySelectorAll("tr.original, tr.retrained, tr.unlearned")) {
      const row = rows.get(line.dataset.row ?? line.parentElement.dataset.row);
      [...line.cells].forEach((cell, column) => {
        const { metric, digits } = heads[column]?.dataset ?? {};
        if (!metric) return;
        cell.querySelector(".one-seed")?.remove();
        delete cell.dataset.seed;
        if (seed === null) return;
        const value = row.cells[metric]?.per_seed[seed] ?? null;
        cell.dataset.seed = value ?? "";
        cell.append(make("span", value === null ? "–" : minus(value.toFixed(Number(digits))), "one-seed"));
      });
    }
  }

  function unfold(state, button) {
    const more = document.getElementById(button.getAttribute("aria-controls")), open = more.hidden;
    more.hidden = !open;
    button.setAttribute("aria-expanded", String(open));
    const chart = state.charts.find((held) => more.contains(held.element));
    if (open && chart && !chart.drawn) draw(chart);
  }

  function save(name, text, type = "application/json") {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  const quoted = (value) => (/[",\n]/.test(String(value)) ? `"${String(value).replace(/"/g, '""')}"` : String(value));

  /* The numbers of a figure as it stands: one line for each point. */
  function chartCsv(element) {
    const lines = [["model", "series", "x", "y", "value"]];
    for (const data of element.data || []) {
      if (data.type === "heatmap") data.z.forEach((line, y) => line.forEach((value, x) => lines.push([data.meta ?? "", "", data.x[x], data.y[y], value])));
      else data.x.forEach((x, k) => lines.push([data.meta ?? "", data.name ?? "", x, data.y[k], ""]));
    }
    return lines.map((line) => line.map(quoted).join(",")).join("\n");
  }

  async function copy(button) {
    const text = button.parentElement.querySelector("code").textContent;
    try { await navigator.clipboard.writeText(text); button.textContent = "Copied"; }
    catch { getSelection().selectAllChildren(button.parentElement.querySelector("code")); button.textContent = "Selected"; }
  }

  /* Drawing: a figure is drawn when it comes near, again when its width, its theme or what it shows changes. */

  const DRAWERS = {
    losses: drawLosses, roc: drawRoc, examples: drawExamples, confusion: drawConfusion, cka: drawCka, distance: drawDistance, probe: drawProbe, moved: drawMoved,
    map: drawMap, relearning: drawRelearning, along: drawAlong, meter: drawMeter, pairs: drawPairs, tradeoff: drawTradeoff, "row-curve": drawRowCurve,
  };

  async function draw(chart) {
    const { element, state } = chart;
    if (!element.clientWidth) return;
    chart.drawn = true;
    try { await withPlotly(); }
    catch (error) { element.replaceChildren(make("p", error.message, "absent")); return; }
    const figure = DRAWERS[chart.kind](state, element);
    if (!figure) return;
    chart.width = element.clientWidth;
    await Plotly.react(element, figure.data, layout({ ...figure.layout, width: element.clientWidth, height: element.clientHeight }), options(chart.kind));
    const note = element.parentElement.querySelector(".note");
    if (note) note.textContent = figure.note || "";
  }

  function redraw(state, ...kinds) {
    for (const chart of state.charts) if (chart.drawn && (!kinds.length || kinds.includes(chart.kind))) draw(chart);
  }

  function fill(select, names, label = (name) => name) {
    for (const name of names) select.append(new Option(label(name), name));
  }

  function chooseRow(state, row) {
    state.row = row;
    for (const select of state.article.querySelectorAll(".row-pick")) select.value = row;
    fillSeries(state);
    fillAttack(state);
    fillGallery(state);
    redraw(state, "losses", "roc", "examples", "confusion", "cka", "distance", "probe", "moved", "map", "relearning", "along");
  }

  function fillSeries(state) {
    const select = state.article.querySelector(".series");
    if (!select) return;
    const before = select.value, groups = groupsOf(state);
    select.replaceChildren();
    fill(select, groups, (name) => GROUPS[name] || name.replace(/_/g, " "));
    if (groups.includes(before)) select.value = before;
  }

  function prepare(article) {
    const at = Number(article.dataset.record), record = records[at], held = figures[at];
    const methods = record.table.rows.filter((row) => row.role === "unlearned" && Object.keys(row.cells).length).map((row) => row.name);
    const first = record.table.rows.find((row) => row.role === "unlearned" && kindOf(row) === "open");
    const state = { article, record, held, row: first ? first.name : methods[0] };
    state.charts = [...article.querySelectorAll(".chart")].map((element) => ({ element, state, kind: element.dataset.chart, drawn: false, width: 0 }));
    const on = (selector, event, act) => { for (const each of article.querySelectorAll(selector)) each.addEventListener(event, () => act(each)); };
    for (const select of article.querySelectorAll(".row-pick")) { fill(select, methods); select.value = state.row; select.closest("label").hidden = methods.length < 2; }
    on(".row-pick", "change", (select) => chooseRow(state, select.value));
    fill(article.querySelector(".closeness"), closenesses(record), (name) => (record.table.metrics[name] || { label: name }).label);
    if (record.table.metrics.test_accuracy) article.querySelector(".cost").append(new Option("test accuracy lost", LOST));
    on(".closeness, .cost, .with-seeds", "change", () => redraw(state, "tradeoff"));
    on(".scale input", "change", () => { fillAttack(state); redraw(state, "losses"); });
    on(".flat input", "change", () => redraw(state, "map"));
    on(".series", "change", () => redraw(state, "along"));
    on(".threshold", "input", () => { fillAttack(state); const chart = state.charts.find((each) => each.kind === "losses"); if (chart.drawn && chart.element.layout) Plotly.relayout(chart.element, { shapes: thresholdLine(state, histogram(state).edges) }); });
    if (!held.pairs.reason) prepareCompare(state, on);
    const table = article.querySelector(".results");
    table.querySelectorAll("thead th").forEach((head, column) => head.querySelector("button").addEventListener("click", () => sortBy(table, column, head)));
    on(".by-family, .by-addon", "change", () => filterRows(article));
    on(".by-name", "input", () => filterRows(article));
    on(".by-seed", "change", () => showSeed(state));
    on(".unfold", "click", (button) => unfold(state, button));
    on(".chart-csv", "click", (button) => { const element = button.closest("figure").querySelector(".chart"); save(`${element.dataset.chart}.csv`, chartCsv(element), "text/csv"); });
    on(".save-json", "click", () => save("record.json", JSON.stringify(record, null, 1)));
    on(".save-figures", "click", () => save("figures.json", JSON.stringify(held, null, 1)));
    on(".save-config", "click", () => save("config.yaml", record.provenance.config, "text/yaml"));
    on(".copy", "click", copy);
    on("details", "toggle", (details) => { for (const chart of state.charts) if (details.open && details.contains(chart.element) && !chart.drawn) draw(chart); });
    fillSeries(state);
    fillAttack(state);
    fillGallery(state);
    return state;
  }

  function prepareCompare(state, on) {
    const { article, held } = state, [first, second, part] = [".first-model", ".second-model", ".compare-part"].map((name) => article.querySelector(name)), rows = Object.keys(held.pairs.rows);
    fill(first, rows);
    fill(second, rows);
    first.value = rows.includes(state.row) ? state.row : rows[0];
    second.value = rows.includes("retrained") ? "retrained" : rows.at(-1);
    fill(part, ["all", ...held.pairs.parts]);
    part.value = held.pairs.parts.includes("forget") ? "forget" : "all";
    on(".first-model, .second-model, .compare-part", "change", () => { fillCompare(state); redraw(state, "pairs"); });
    fillCompare(state);
  }

  function start() {
    records = read("expunge-records");
    figures = read("expunge-figures");
    states = [...document.querySelectorAll("article")].map(prepare);
    const charts = states.flatMap((state) => state.charts), of = new Map(charts.map((chart) => [chart.element, chart]));
    const watcher = new IntersectionObserver((entries) => {
      for (const entry of entries) if (entry.isIntersecting && !of.get(entry.target).drawn) draw(of.get(entry.target));
    }, { rootMargin: "600px" });
    /* Labels are placed for a width, so another width means drawing again. */
    const resized = new ResizeObserver((entries) => {
      for (const entry of entries) {
        const chart = of.get(entry.target), width = entry.target.clientWidth;
        if (chart.drawn && width && chart.width && Math.abs(chart.width - width) > 1) requestAnimationFrame(() => draw(chart));
      }
    });
    for (const chart of charts) { watcher.observe(chart.element); resized.observe(chart.element); }
    const repaint = () => states.forEach((state) => redraw(state));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
    matchMedia("print").addEventListener("change", repaint);
    document.querySelector(".theme").addEventListener("click", () => { setTheme(nextTheme[root.dataset.theme ?? ""]); repaint(); });
    drawWhenIdle(charts);
    printEverything(charts);
    root.dataset.ready = "yes";
  }

  /* The rest is drawn bit by bit while nothing else happens, so that a printed page has all of it. */
  function drawWhenIdle(charts) {
    const idle = window.requestIdleCallback ?? ((act) => setTimeout(act, 60));
    const next = async () => {
      const chart = charts.find((each) => !each.drawn && each.element.clientWidth);
      if (!chart) { root.dataset.drawn = "all"; return; }
      await draw(chart);
      idle(next);
    };
    idle(next);
  }

  /* On paper nothing can be unfolded. */
  function printEverything(charts) {
    const folded = [];
    addEventListener("beforeprint", () => {
      for (const details of document.querySelectorAll("details:not([open])")) { details.open = true; folded.push(details); }
      for (const chart of charts) if (!chart.drawn) draw(chart);
    });
    addEventListener("afterprint", () => { folded.splice(0).forEach((details) => (details.open = false)); });
  }

  requestAnimationFrame(() => setTimeout(start));
})();
