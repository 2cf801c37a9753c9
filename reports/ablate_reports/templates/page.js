"use strict";
(() => {
  const root = document.documentElement;
  const plots = [...document.querySelectorAll(".plot")];
  const drawn = new Map();
  const media = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : media.matches);

  // ---- figures -------------------------------------------------------------------------------------------------
  const config = {
    displaylogo: false, displayModeBar: "hover", responsive: true, showSendToCloud: false, plotlyServerURL: "",
    modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d", "sendChartToCloud"],
    toImageButtonOptions: { format: "svg" },
  };
  const look = () => {
    const css = getComputedStyle(root), ink = css.getPropertyValue("--ink").trim(), grid = css.getPropertyValue("--grid").trim();
    return {
      "font.color": ink, "xaxis.gridcolor": grid, "yaxis.gridcolor": grid, "xaxis.linecolor": grid, "yaxis.linecolor": grid,
      "xaxis.tickcolor": grid, "yaxis.tickcolor": grid,
    };
  };
  function draw(el) {
    const id = el.dataset.figure;
    if (!drawn.has(id)) {
      const spec = JSON.parse(document.getElementById("spec-" + id).textContent);
      drawn.set(id, Plotly.newPlot(el, spec.data, spec.layout, config).then(() => Plotly.relayout(el, look())).then(() => { el.dataset.drawn = "1"; }));
    }
    return drawn.get(id);
  }
  const drawAll = () => Promise.all(plots.map(draw));
  const recolour = () => plots.filter((el) => el.dataset.drawn).forEach((el) => Plotly.relayout(el, look()));

  async function loadPlotly() {
    const packed = document.getElementById("plotly");
    if (!packed) return;
    const bytes = Uint8Array.from(atob(packed.textContent), (c) => c.charCodeAt(0));
    const text = await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
    const url = URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
    await new Promise((done, failed) => {
      const tag = document.createElement("script");
      tag.src = url; tag.onload = done; tag.onerror = () => failed(new Error("plotly.js did not load"));
      document.head.append(tag);
    });
    URL.revokeObjectURL(url);
    if (location.hash === "#all") return drawAll();
    const watch = new IntersectionObserver((seen) => seen.forEach((e) => { if (e.isIntersecting) { watch.unobserve(e.target); draw(e.target); } }), { rootMargin: "800px" });
    plots.forEach((el) => watch.observe(el));
  }
  const ready = loadPlotly();
  ready.catch(() => plots.forEach((el) => { el.textContent = "This browser cannot draw the figure; its numbers are in the data table below."; }));
  window.ablateReport = { ready, drawAll };

  document.querySelectorAll(".legend button").forEach((b) => b.addEventListener("click", () => {
    const el = plots.find((p) => p.dataset.figure === b.dataset.figure), on = b.getAttribute("aria-pressed") !== "true";
    if (!el.dataset.drawn) return;
    b.setAttribute("aria-pressed", String(on));
    Plotly.restyle(el, { visible: on }, el.data.flatMap((t, i) => (t.legendgroup === b.dataset.group ? [i] : [])));
  }));

  // ---- theme ---------------------------------------------------------------------------------------------------
  const button = document.getElementById("theme");
  const name = () => { button.setAttribute("aria-pressed", String(dark())); };
  button.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; name(); recolour(); });
  media.addEventListener("change", () => { name(); recolour(); });
  name();

  // ---- print: light, everything drawn, every table open ----------------------------------------------------------
  let before = null;
  addEventListener("beforeprint", () => {
    before = { theme: root.dataset.theme, closed: [...document.querySelectorAll("details:not([open]):not([data-noprint])")] };
    root.dataset.theme = "light";
    before.closed.forEach((d) => { d.open = true; });
    if (window.Plotly) { drawAll(); recolour(); }
  });
  addEventListener("afterprint", () => {
    if (!before) return;
    if (before.theme) root.dataset.theme = before.theme; else delete root.dataset.theme;
    before.closed.forEach((d) => { d.open = false; });
    recolour();
  });

  // ---- the trials table ------------------------------------------------------------------------------------------
  const rows = [...document.querySelectorAll("#trial-rows tr")], shown = document.getElementById("trials-shown");
  const filters = [...document.querySelectorAll("[data-filter]")];
  function filter() {
    let n = 0;
    for (const row of rows) {
      const ok = filters.every((f) => {
        const want = f.value.trim().toLowerCase();
        if (!want) return true;
        return f.dataset.filter === "text" ? row.textContent.toLowerCase().includes(want) : row.dataset[f.dataset.filter] === f.value;
      });
      row.hidden = !ok;
      n += ok;
    }
    if (shown) shown.textContent = `${n} of ${rows.length} shown`;
  }
  filters.forEach((f) => f.addEventListener("input", filter));
})();
