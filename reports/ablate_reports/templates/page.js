"use strict";
(() => {
  const root = document.documentElement;
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const plots = all(".plot");
  const drawn = new Map(), specs = new Map();
  const media = matchMedia("(prefers-color-scheme: dark)"), phone = matchMedia("(max-width: 600px)");
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : media.matches);

  // ---- figures -------------------------------------------------------------------------------------------------
  const config = {
    displaylogo: false, displayModeBar: "hover", responsive: true, showSendToCloud: false, plotlyServerURL: "",
    modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d", "sendChartToCloud"],
    toImageButtonOptions: { format: "svg" },
  };
  const look = (layout) => {
    const css = getComputedStyle(root), ink = css.getPropertyValue("--ink").trim(), grid = css.getPropertyValue("--grid").trim();
    const out = { "font.color": ink };
    for (const axis of Object.keys(layout).filter((k) => /^[xy]axis/.test(k))) {
      for (const part of ["gridcolor", "linecolor", "tickcolor"]) out[`${axis}.${part}`] = grid;
    }
    return out;
  };
  // "annotations[3].text" -> the layout's own value: what a phone's shorter text goes back to
  const at = (layout, path) => path.split(/[.[\]]+/).filter(Boolean).reduce((o, k) => o?.[k], layout) ?? null;
  const fit = (el) => {
    const { narrow, wide } = specs.get(el);
    // a new height alone would make Plotly keep the width of before
    return Object.keys(narrow).length ? Plotly.relayout(el, { ...(phone.matches ? narrow : wide), autosize: true }) : null;
  };
  async function start(el) {
    const spec = JSON.parse(document.getElementById("spec-" + el.dataset.figure).textContent);
    const narrow = spec.narrow, wide = Object.fromEntries(Object.keys(narrow).map((k) => [k, at(spec.layout, k)]));
    specs.set(el, { narrow, wide, traces: spec.data.map(({ meta, y, z, opacity }) => ({ meta, y, z, opacity: opacity ?? 1 })) });
    await Plotly.newPlot(el, spec.data, spec.layout, config);
    await Plotly.relayout(el, { ...look(el.layout), ...(phone.matches ? narrow : {}), autosize: true });
    el.dataset.drawn = "1";
    studies.find((s) => s.root.contains(el)).masked(el);
  }
  function draw(el) {
    if (!drawn.has(el)) drawn.set(el, start(el));
    return drawn.get(el);
  }
  const drawAll = () => Promise.all(plots.map(draw));
  const visible = () => plots.filter((el) => el.dataset.drawn);
  const recolour = () => visible().forEach((el) => Plotly.relayout(el, look(el.layout)));
  phone.addEventListener("change", () => visible().forEach(fit));

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

  all(".legend button").forEach((b) => b.addEventListener("click", () => {
    const el = plots.find((p) => p.dataset.figure === b.dataset.figure), on = b.getAttribute("aria-pressed") !== "true";
    if (!el.dataset.drawn) return;
    b.setAttribute("aria-pressed", String(on));
    Plotly.restyle(el, { visible: on }, el.data.flatMap((t, i) => (t.legendgroup === b.dataset.group ? [i] : [])));
  }));

  // ---- contents and theme ----------------------------------------------------------------------------------------
  const menu = document.querySelector(".menu");
  menu.addEventListener("click", (e) => { if (e.target.closest("a")) menu.open = false; });
  menu.addEventListener("keydown", (e) => { if (e.key === "Escape") { menu.open = false; menu.firstElementChild.focus(); } });
  const button = document.getElementById("theme");
  const name = () => { button.setAttribute("aria-pressed", String(dark())); };
  button.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; name(); recolour(); });
  media.addEventListener("change", () => { name(); recolour(); });
  name();

  // ---- print: light, everything drawn, every table open ----------------------------------------------------------
  let before = null;
  addEventListener("beforeprint", () => {
    before = { theme: root.dataset.theme, closed: all("main details:not([open]):not([data-noprint])") };
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

  // ---- filters of each study: levels choose arms everywhere, status, arm and text choose trials ---------------------
  const notice = document.getElementById("filtered");
  function study(root) {
    const within = (selector) => all(selector, root);
    const levels = JSON.parse(root.querySelector("[id$=arm-levels]").textContent).arms;
    const rows = within("[id$=trial-rows] tr"), shown = root.querySelector("[id$=trials-shown]");
    const filters = within("[data-filter]"), axes = within("[data-axis]");
    let chosen = null; // numbers of the arms that are shown; null: all of them
    const kept = (arm) => !chosen || arm < 0 || chosen.has(arm);

    function mask(el) {
      const { traces } = specs.get(el);
      const dim = [], cut = [], opacity = [], ys = [], zs = [], heat = [];
      traces.forEach(({ meta, y, z, opacity: was }, i) => {
        if (typeof meta === "number") { dim.push(i); opacity.push(kept(meta) ? was : 0.08); }
        else if (Array.isArray(meta) && z) { heat.push(i); zs.push(z.map((r, j) => r.map((v, k) => (kept(meta[j][k]) ? v : null)))); }
        else if (Array.isArray(meta)) { cut.push(i); ys.push(y.map((v, k) => (kept(meta[k]) ? v : null))); }
      });
      if (dim.length) Plotly.restyle(el, { opacity }, dim);
      if (cut.length) Plotly.restyle(el, { y: ys }, cut);
      if (heat.length) Plotly.restyle(el, { z: zs }, heat);
      const faded = {};
      (el.layout.annotations ?? []).forEach((a, i) => {
        const of = /^arm (\d+)$/.exec(a.name ?? "");
        if (of) faded[`annotations[${i}].opacity`] = kept(Number(of[1])) ? 1 : 0.2;
      });
      if (Object.keys(faded).length) Plotly.relayout(el, faded);
    }

    function filterTrials() {
      let n = 0;
      for (const row of rows) {
        const ok = kept(Number(row.dataset.arm)) && filters.every((f) => {
          const want = f.value.trim().toLowerCase();
          if (!want) return true;
          if (f.dataset.filter === "text") return row.textContent.toLowerCase().includes(want);
          return (f.dataset.filter === "arm" ? row.dataset.label : row.dataset.status) === f.value;
        });
        row.hidden = !ok;
        n += ok;
      }
      if (shown) shown.textContent = `${n} of ${rows.length} shown`;
    }
    function filterArms() {
      const wanted = new Map(axes.filter((s) => s.value).map((s) => [s.dataset.axis, s.value]));
      const ok = (arm) => [...wanted].every(([axis, level]) => arm[axis] === level);
      chosen = wanted.size ? new Set(levels.flatMap((arm, i) => (ok(arm) ? [i] : []))) : null;
      within(".arms [data-arm], .grids [data-arm], .panel[data-arm]").forEach((e) => { e.hidden = !kept(Number(e.dataset.arm)); });
      within("[data-shown=arms]").forEach((e) => { e.textContent = said(); });
      const texts = studies.map((s) => s.said()).filter(Boolean);
      notice.hidden = !texts.length;
      notice.firstElementChild.textContent = texts.join(", ");
      visible().filter((el) => root.contains(el)).forEach(mask);
      filterTrials();
    }
    const said = () => (chosen ? `${chosen.size} of ${levels.length} arms` : "");
    filters.forEach((f) => f.addEventListener("input", filterTrials));
    axes.forEach((s) => s.addEventListener("input", () => {
      axes.filter((o) => o.dataset.axis === s.dataset.axis).forEach((o) => { o.value = s.value; });
      filterArms();
    }));
    const clear = () => { axes.forEach((s) => { s.value = ""; }); filterArms(); };
    return { root, said, clear, masked: (el) => { if (chosen) mask(el); } };
  }
  const studies = all(".study").map(study);
  document.getElementById("clear").addEventListener("click", () => studies.forEach((s) => s.clear()));
})();
