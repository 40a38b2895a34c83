// Marks in the browser's trace when the answer's text changes, when it stops, and what a second clock says of a frame.
// The page is observed and never changed.
(() => {
  const { answer, stop } = SELECTORS;
  const PREFIX = "streamgauge-";
  let armed = false;
  let answersBefore = 0;
  let textBefore = "";
  let chars = 0;
  let wasRunning = false;
  let hasRun = false;
  let changedAt = 0;
  let shift = 0;
  let text = "";

  const mark = (name, detail) => performance.mark(PREFIX + name, { detail });
  const current = () => {
    const all = document.querySelectorAll(answer);
    const last = all.length ? all[all.length - 1].textContent : "";
    return all.length > answersBefore || last !== textBefore ? last : "";
  };
  const channel = new MessageChannel();
  const pending = [];
  channel.port1.onmessage = () => pending.splice(0).forEach((n) => mark("after-frame", { chars: n }));
  const afterFrame = (n) =>
    requestAnimationFrame(() => {
      pending.push(n);
      channel.port2.postMessage(null);
    });

  const observe = () => {
    if (!armed) return;
    text = current();
    if (text.length !== chars) {
      chars = text.length;
      changedAt = performance.now();
      mark("text", { chars });
      afterFrame(chars);
    }
    if (stop) {
      const running = document.querySelector(stop) !== null;
      if (wasRunning && !running) mark("stopped", {});
      wasRunning = running;
      hasRun ||= running;
    }
  };

  const options = { subtree: true, childList: true, characterData: true, attributes: Boolean(stop) };
  new MutationObserver(observe).observe(document, options);
  document.addEventListener("input", (event) => mark("key", { at: event.timeStamp }), true);
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) if (!entry.hadRecentInput) shift += armed ? entry.value : 0;
  }).observe({ type: "layout-shift", buffered: false });

  window.streamgaugeObserver = {
    arm() {
      const all = document.querySelectorAll(answer);
      answersBefore = all.length;
      textBefore = all.length ? all[all.length - 1].textContent : "";
      armed = true;
      observe();
    },
    sync() {
      mark("sync", {});
    },
    state() {
      const quiet = chars ? performance.now() - changedAt : 0;
      return { armed, chars, hasRun, ended: hasRun && !wasRunning, quiet_ms: quiet, text, shift };
    },
  };
})();
