// Draws TTFT, tokens/s and goodput of the running test below Locust's own page, once a second while it runs.
(() => {
  const WIDTH = 420, HEIGHT = 170, LEFT = 46, BOTTOM = 24, TOP = 8, RIGHT = 8;
  const CHARTS = [
    { title: "TTFT (ms)", lines: [["p50", "#3b82f6", p => ms(p.ttft_p50_s)], ["p95", "#f97316", p => ms(p.ttft_p95_s)]] },
    { title: "Output tokens/s", lines: [["all answers", "#10b981", p => p.output_tps]] },
    { title: "Goodput (answers/s)", lines: [
      ["completed", "#a3a3a3", p => p.throughput], ["within the SLO", "#3b82f6", p => p.goodput],
      ["failed", "#e11d48", p => p.failed]] },
  ];
  const base = document.currentScript.src.replace(/charts\.js.*$/, "");
  const section = document.createElement("section");
  section.setAttribute("aria-label", "Streaming metrics");
  section.hidden = true;
  section.innerHTML = `<style>
    #streaming-charts { padding: 8px 24px 24px; font: 14px/1.4 Roboto, Helvetica, Arial, sans-serif; }
    #streaming-charts .row { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr)); gap: 16px; }
    #streaming-charts h3 { margin: 8px 0 2px; font-size: 15px; }
    #streaming-charts p { margin: 0 0 4px; opacity: .8; }
    #streaming-charts svg { width: 100%; height: auto; display: block; }
    #streaming-charts text { fill: currentColor; font-size: 11px; opacity: .75; }
    #streaming-charts .grid { stroke: currentColor; opacity: .18; }
    #streaming-charts i { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 4px; }
    #streaming-charts span { white-space: nowrap; margin-right: 10px; }
  </style><div class="row"></div><p class="note"></p>`;
  section.id = "streaming-charts";
  document.body.append(section);
  const row = section.querySelector(".row"), note = section.querySelector(".note");

  function ms(seconds) { return seconds === null ? null : seconds * 1000; }

  function step(most) {
    const power = 10 ** Math.floor(Math.log10(most / 4));
    return [1, 2, 5, 10].map(digit => digit * power).find(size => size >= most / 4);
  }

  function short(value) { return value >= 10000 ? `${value / 1000}k` : `${+value.toPrecision(3)}`; }

  function draw(chart, points) {
    const first = points[0].at_s, last = Math.max(points[points.length - 1].at_s, first + 10);
    const values = chart.lines.flatMap(([, , read]) => points.map(read)).filter(value => value !== null);
    const most = Math.max(...values, 1e-9) * 1.05, size = step(most);
    const x = at => LEFT + (at - first) / (last - first) * (WIDTH - LEFT - RIGHT);
    const y = value => TOP + (1 - value / most) * (HEIGHT - TOP - BOTTOM);
    let parts = "";
    for (let value = 0; value <= most; value += size) {
      parts += `<path class="grid" d="M${LEFT} ${y(value)}H${WIDTH - RIGHT}"/>`;
      parts += `<text x="${LEFT - 6}" y="${y(value) + 4}" text-anchor="end">${short(value)}</text>`;
    }
    parts += `<text x="${LEFT}" y="${HEIGHT - 6}">${first} s</text>`;
    parts += `<text x="${WIDTH - RIGHT}" y="${HEIGHT - 6}" text-anchor="end">${last} s</text>`;
    const legend = [];
    for (const [name, colour, read] of chart.lines) {
      let path = "", isNew = true, now = null;
      for (const point of points) {
        const value = read(point);
        if (value === null) { isNew = true; continue; }
        path += `${isNew ? "M" : "L"}${x(point.at_s).toFixed(1)} ${y(value).toFixed(1)}`;
        isNew = false;
        now = value;
      }
      parts += `<path d="${path}" fill="none" stroke="${colour}" stroke-width="1.8"/>`;
      legend.push(`<span><i style="background:${colour}"></i>${name} ${now === null ? "–" : short(now)}</span>`);
    }
    return `<div><h3>${chart.title}</h3><p>${legend.join(" ")}</p>
      <svg viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label="${chart.title}">${parts}</svg></div>`;
  }

  async function update() {
    try {
      const response = await fetch(`${base}points`);
      if (!response.ok) return;
      const { points, slo } = await response.json();
      section.hidden = points.length < 2;
      if (section.hidden) return;
      section.style.color = getComputedStyle(document.body).color;
      row.innerHTML = CHARTS.map(chart => draw(chart, points)).join("");
      note.textContent = `Of the answers that ended in the 5 s before each point. SLO: ${slo}, by each answer's own values.`;
    } catch { /* the test's server has ended: the last charts stay */ }
  }

  update();
  setInterval(update, 1000);
})();
