"use strict";
/* Plotly lies in the page compressed; the browser unpacks it when the first figure is near. */
const withPlotly = (() => {
  let unpacked;
  return () => unpacked ??= (async () => {
    if (!("DecompressionStream" in window)) throw new Error("Figures need a browser of 2023 or later; the tables are complete without them.");
    const packed = Uint8Array.from(atob(document.getElementById("plotly").textContent), (letter) => letter.charCodeAt(0));
    const script = document.createElement("script");
    script.textContent = await new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
    document.head.append(script);
  })();
})();
