"use strict";

const dark = matchMedia("(prefers-color-scheme: dark)");
let views = [];
let drawing = 0;

// Chooses how many panels stand side by side, and their width where it is not given by cells.
function fit(chart, width) {
  const spec = structuredClone(chart);
  const panel = spec.spec;
  const panels = spec.facet.sort.length;
  if (panel.width.step) {
    const cells = panel.layer[0].encoding.x.sort.length;
    const needed = panel.width.step * cells + 90;
    spec.columns = Math.max(1, Math.min(spec.columns, Math.floor(width / needed)));
    return spec;
  }
  const axis = 70, gap = 36, least = 230;
  spec.columns = Math.max(1, Math.min(spec.columns, panels, Math.floor((width - axis + gap) / (least + gap))));
  panel.width = Math.min(420, Math.floor((width - axis - gap * (spec.columns - 1)) / spec.columns) - 6);
  return spec;
}

// A figure without the chosen attack, since its norm is another one, makes room for those that have it.
function hide(series) {
  for (const figure of document.querySelectorAll("figure[data-series]")) {
    figure.hidden = !JSON.parse(figure.dataset.series).includes(series);
  }
}

function options(theme) {
  // The interpreter instead of generated code: the page's policy forbids to evaluate strings.
  return { actions: false, ast: true, renderer: "svg", tooltip: { theme } };
}

async function draw() {
  const theme = dark.matches ? "dark" : "light";
  const current = ++drawing;
  views.forEach((view) => view.finalize());
  views = [];
  for (const element of document.querySelectorAll(".chart")) {
    // The section's width, because a hidden figure has none.
    const width = element.closest("section").clientWidth;
    const spec = fit(DATA.charts[element.dataset.chart], width);
    // Drawn empty, a hidden figure would not grow when it is shown again: it keeps the first series.
    const chosen = document.querySelector("input[name=series]:checked")?.value;
    const series = element.closest("figure").hidden ? undefined : chosen;
    const values = { ...DATA.themes[theme], ...(series && { series }) };
    spec.params = spec.params.map((param) => ({ ...param, value: values[param.name] ?? param.value }));
    Object.assign(spec, { config: DATA.configurations[theme], background: "transparent" });
    let { view } = await vegaEmbed(element, spec, options(theme));
    // How wide labels are is known when they are drawn.
    const excess = element.querySelector("svg").getAttribute("width") - width;
    if (excess > 0 && !spec.spec.width.step) {
      view.finalize();
      spec.spec.width -= Math.ceil(excess / spec.columns);
      ({ view } = await vegaEmbed(element, spec, options(theme)));
    }
    // A pause in which the browser shows the chart and answers its reader.
    await new Promise((resume) => setTimeout(resume));
    if (current !== drawing) return view.finalize();
    views.push(view);
  }
  document.documentElement.dataset.drawn = theme;
}

document.getElementById("series")?.addEventListener("change", (event) => {
  hide(event.target.value);
  for (const view of views) view.signal("series", event.target.value).run();
});
dark.addEventListener("change", draw);
let drawnWidth = document.documentElement.clientWidth;
addEventListener("resize", () => {
  const width = document.documentElement.clientWidth;
  if (width !== drawnWidth) {
    drawnWidth = width;
    draw();
  }
});

draw();
