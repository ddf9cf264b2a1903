"use strict";
(() => {
  const make = (tag, text) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const duration = (seconds) => (seconds < 60 ? `${seconds.toFixed(seconds < 10 ? 1 : 0)} s` : seconds < 3600 ? `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s` : `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min`);
  const WORDS = { running: "running", silent: "no news for two minutes", ok: "finished" };
  const WIDTH = 120, HEIGHT = 26, SVG = "http://www.w3.org/2000/svg";

  /* A small line for each loss, all of one run on one scale of its own. */
  function lines(losses) {
    const values = Object.values(losses).flat().filter(([, y]) => y !== null), svg = document.createElementNS(SVG, "svg");
    const words = Object.entries(losses).map(([name, points]) => `${name} ${points.at(-1)[1]}`).join(", ");
    svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    svg.setAttribute("width", WIDTH);
    svg.setAttribute("height", HEIGHT);
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", words);
    const last = Math.max(2, ...values.map(([x]) => x)), low = Math.min(0, ...values.map(([, y]) => y)), high = Math.max(...values.map(([, y]) => y), low + 1e-9);
    Object.values(losses).forEach((points, at) => {
      const line = document.createElementNS(SVG, "polyline");
      line.setAttribute("points", points.filter(([, y]) => y !== null).map(([x, y]) => `${3 + ((x - 1) / (last - 1)) * (WIDTH - 6)},${HEIGHT - 3 - ((y - low) / (high - low)) * (HEIGHT - 6)}`).join(" "));
      line.setAttribute("class", `loss loss-${at % 3}`);
      svg.append(line);
    });
    return svg;
  }

  function row(run) {
    const line = make("tr"), head = make("th"), curve = make("td");
    head.scope = "row";
    head.append(make("bdi", run.title), make("small", ` ${run.name}`));
    line.dataset.run = run.name;
    line.className = run.state;
    if (Object.values(run.losses).some((points) => points.length)) curve.append(lines(run.losses));
    line.append(head, make("td", WORDS[run.state] || run.state), make("td", run.phase), make("td", duration(run.seconds)), curve);
    return line;
  }

  /* Comparisons that are not finished; finished ones are results. */

  const COMPARISONS = { running: "In progress", stopped: "Stopped" };
  const counted = ([there, all], one) => `${there} of ${all} ${one}${all === 1 ? "" : "s"}`;

  function comparison(one) {
    const item = make("li"), box = make("div"), head = make("p"), bar = make("progress"), words = [];
    box.className = `underway ${one.state}`;
    head.className = "underway-head";
    head.append(make("strong", COMPARISONS[one.state]), make("span", `${counted(one.rows, "row")}, ${counted(one.jobs, "job")}`));
    bar.className = "underway-bar";
    bar.setAttribute("aria-label", "Jobs that have ended");
    Object.assign(bar, { max: one.jobs[1] || 1, value: one.jobs[0] });
    for (const request of one.requests) {
      const before = one.requests.length > 1 ? `${request.title}: ` : "";
      if (request.lost) words.push(`${before}nothing can be judged; ${request.lost}`);
      else if (!request.ready) words.push(`${before}${request.references[0]} of ${request.references[1]} originals and retrained models are there; rows are judged when all are.`);
    }
    if (one.problem) words.push(`The report could not be written: ${one.problem}`);
    box.append(head, bar, ...words.map((line) => Object.assign(make("p", line), { className: "underway-rule" })));
    const place = make("p");
    if (one.page) {
      const link = make("a", one.state === "running" ? "The report so far" : "The report as far as it came");
      link.href = `/growing/${encodeURIComponent(one.id)}`;
      place.append(link);
    } else if (one.state === "running" && !one.problem) place.append("The report begins with the first row that is whole.");
    box.append(place, make("code", one.state === "stopped" ? `To go on, run again: ${one.command}` : one.command));
    item.dataset.comparison = one.id;
    item.append(box);
    return item;
  }

  function show(seen) {
    const open = seen.comparisons.filter((one) => one.state in COMPARISONS);
    if (location.pathname === "/" && open.some((one) => one.state === "running" && one.page)) return location.replace("/");
    document.querySelector(".at-work").hidden = !open.length;
    document.querySelector(".comparisons").replaceChildren(...open.map(comparison));
    const counts = Object.entries(seen.counts).map(([state, count]) => `${count} ${WORDS[state] || state}`);
    document.querySelector(".counts").textContent = counts.length ? `${counts.join(", ")}.` : "No run yet.";
    document.querySelector(".runs tbody").replaceChildren(...seen.runs.map(row));
    const list = document.querySelector(".results-list");
    list.replaceChildren(...seen.results.map((name) => {
      const item = make("li"), link = make("a", name);
      link.href = `/report/${encodeURIComponent(name)}`;
      item.append(link);
      return item;
    }));
    if (!seen.results.length) list.append(make("li", "None yet: the report is written when all runs are there."));
  }

  show(JSON.parse(document.getElementById("seen").textContent)[0]);
  const source = new EventSource("/events"), live = document.querySelector(".live");
  source.onopen = () => (live.textContent = "live");
  source.onmessage = (event) => show(JSON.parse(event.data));
  source.onerror = () => (live.textContent = "the server has ended");
})();
