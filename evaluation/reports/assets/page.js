const dark = matchMedia("(prefers-color-scheme: dark)");

function shade(light) {
  const text = light ? "#1c1f24" : "#e8eaed";
  const line = light ? "#d9dde3" : "#3a404a";
  const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, tickcolor: line };
  return { text, axis };
}

function layout(figure, light) {
  const { text, axis } = shade(light);
  return {
    ...figure.layout,
    xaxis: { ...axis, ...figure.layout.xaxis },
    yaxis: { ...axis, ...figure.layout.yaxis },
    font: { color: text, size: 13 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: 60, r: 16, t: 12, b: 50 },
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
    hovermode: "closest",
  };
}

function draw(light) {
  for (const [id, figure] of Object.entries(FIGURES)) {
    Plotly.react(id, figure.data, layout(figure, light), { responsive: true, displayModeBar: false });
  }
}

draw(!dark.matches);
dark.addEventListener("change", () => draw(!dark.matches));
addEventListener("beforeprint", () => draw(true));
addEventListener("afterprint", () => draw(!dark.matches));
