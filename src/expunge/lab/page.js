"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("lab-figures").textContent);
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const faded = (hex, share) => hex + Math.round(255 * share).toString(16).padStart(2, "0");

  /* "$forget" and "$forget/0.3" are colours of the page, light or dark. */
  function dressed(value) {
    if (typeof value === "string") {
      const match = /^\$(\w+)(?:\/([\d.]+))?$/.exec(value);
      return match ? (match[2] ? faded(color(match[1]), Number(match[2])) : color(match[1])) : value;
    }
    if (Array.isArray(value)) return typeof value[0] === "number" && typeof value[value.length - 1] === "number" ? value : value.map(dressed);
    if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([key, held]) => [key, dressed(held)]));
    return value;
  }

  function layout(more, width, height) {
    const axis = { color: color("quiet"), gridcolor: color("line"), linecolor: color("line"), zeroline: false, fixedrange: true, automargin: true };
    const base = {
      width, height, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest", dragmode: false,
      font: { family: getComputedStyle(document.body).fontFamily, size: 12.5, color: color("ink") },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: color("quiet"), activecolor: color("ink") },
      hoverlabel: { bgcolor: color("panel"), bordercolor: color("line"), font: { color: color("ink") } },
      margin: { l: 52, r: 14, t: 30, b: 46 }, legend: { orientation: "h", x: 1, xanchor: "right", y: 1, yanchor: "bottom" },
    };
    const merged = { ...base, ...dressed(more) };
    for (const name of Object.keys(merged)) if (/^[xy]axis/.test(name)) merged[name] = { ...axis, ...merged[name] };
    return merged;
  }

  function prepare(element) {
    const figure = figures[Number(element.dataset.figure)], names = Object.keys(figure.charts);
    const target = element.querySelector(".chart"), choice = element.querySelector(".choice");
    const film = element.querySelector(".film"), slider = element.querySelector(".frame"), label = element.querySelector(".frame-name");
    let playing = null;
    const chart = () => figure.charts[choice ? choice.value : names[0]];
    const frames = () => chart().frames || [];

    /* Whatever stands beside the chart is right at once; the chart itself follows when Plotly is unpacked. */
    async function draw() {
      const width = target.clientWidth;
      const height = figure.ratio ? Math.min(figure.height, Math.max(240, Math.round(width * figure.ratio))) : figure.height;
      target.style.height = `${height}px`;
      film.hidden = !frames().length;
      if (frames().length) {
        slider.max = frames().length - 1;
        label.textContent = frames()[Number(slider.value)].name;
      }
      try { await withPlotly(); }
      catch (error) { target.textContent = error.message; return; }
      await Plotly.react(target, data(), layout(extra(), width, height), {
        displaylogo: false, displayModeBar: "hover", modeBarButtons: [["toImage"]], toImageButtonOptions: { format: "svg", filename: "expunge-lab" },
      });
    }

    /* A frame replaces what it names in some of the traces; drawing the whole figure again keeps colours and sizes right. */
    function data() {
      const found = chart().data.map((trace) => dressed(trace)), frame = frames()[Number(slider.value)];
      if (frame) frame.traces.forEach((at, place) => (found[at] = { ...found[at], ...dressed(frame.data[place]) }));
      return found;
    }

    function extra() {
      const frame = frames()[Number(slider.value)];
      return frame && frame.layout ? { ...chart().layout, ...frame.layout } : chart().layout;
    }

    function stop() {
      clearInterval(playing);
      playing = null;
      element.querySelector(".play").textContent = "▶";
    }

    function play() {
      if (playing) return stop();
      if (Number(slider.value) >= frames().length - 1) slider.value = 0;
      element.querySelector(".play").textContent = "❚❚";
      playing = setInterval(() => {
        slider.value = Number(slider.value) + 1;
        draw();
        if (Number(slider.value) >= frames().length - 1) stop();
      }, 180);
    }

    if (choice) choice.addEventListener("change", () => { stop(); slider.value = 0; slider.max = Math.max(0, frames().length - 1); draw(); });
    slider.addEventListener("input", () => { stop(); draw(); });
    element.querySelector(".play").addEventListener("click", play);
    slider.max = Math.max(0, frames().length - 1);
    return { element, draw, drawn: false, width: 0 };
  }

  const parts = [...document.querySelectorAll(".figure")].map(prepare);
  const drawOnce = async (part) => { if (!part.drawn) { part.drawn = true; await part.draw(); } };
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) drawOnce(parts.find((part) => part.element === entry.target));
  }, { rootMargin: "900px" });
  const resized = new ResizeObserver((entries) => {
    for (const entry of entries) {
      const part = parts.find((held) => held.element === entry.target), width = Math.round(entry.contentRect.width);
      if (part.drawn && part.width && part.width !== width) requestAnimationFrame(part.draw);
      part.width = width;
    }
  });
  for (const part of parts) {
    watcher.observe(part.element);
    resized.observe(part.element);
  }
  /* The rest is drawn while nothing else happens, so that a printed page has all of it. */
  const idle = window.requestIdleCallback ?? ((act) => setTimeout(act, 60));
  const rest = async () => {
    const part = parts.find((held) => !held.drawn);
    if (!part) return;
    await drawOnce(part);
    idle(rest);
  };
  idle(rest);
  const redraw = () => parts.filter((part) => part.drawn).forEach((part) => part.draw());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  addEventListener("beforeprint", () => parts.forEach(drawOnce));
  document.getElementById("save").addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([document.getElementById("lab-record").textContent], { type: "application/json" }));
    link.download = "record.json";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  });
})();
