function valueAt(svg, clientX) {
  const box = svg.getBoundingClientRect();
  const [low, high, start, end] = svg.dataset.x.split(",").map(Number);
  const share = ((clientX - box.left) / box.width * svg.viewBox.baseVal.width - start) / (end - start);
  if (share < 0 || share > 1) return null;
  return svg.dataset.log === "1" ? low * (high / low) ** share : low + (high - low) * share;
}

for (const plot of document.querySelectorAll(".plot")) {
  const reading = plot.querySelector(".reading");
  for (const svg of plot.querySelectorAll("svg")) {
    svg.addEventListener("pointermove", (event) => {
      const value = valueAt(svg, event.clientX);
      reading.textContent = value === null ? "" : `${Number(value.toPrecision(3))} ${svg.dataset.unit}`;
    });
    svg.addEventListener("pointerleave", () => { reading.textContent = ""; });
  }
  for (const button of plot.querySelectorAll(".legend button")) {
    button.addEventListener("click", () => {
      const shown = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(shown));
      for (const part of plot.querySelectorAll(`svg [data-group="${button.dataset.group}"]`)) {
        part.classList.toggle("hidden", !shown);
      }
    });
  }
}
