// Marks in the browser's trace when the answer's text changes, when Stop is pressed and when the answer stops, and what
// a second clock says of a frame. The page is observed and never changed.
(() => {
  const { answer, stop } = SELECTORS;
  const PREFIX = "streamgauge-";
  const before = new Map(); // the answers that were there when the observer was armed, with their text
  const oldTexts = new Set();
  let armed = false;
  let text = "";
  let shown = ""; // the text of the last mark
  let number = 0;
  let wasRunning = false;
  let hasRun = false;
  let changedAt = 0;
  let shift = 0;
  let fade = 0;

  const mark = (name, detail) => performance.mark(PREFIX + name, { detail });
  const findAnswers = () => [...document.querySelectorAll(answer)];

  // The last new answer, or else the last old one whose text has changed. A page that draws its old answers anew makes
  // new elements with old texts.
  const readText = () => {
    const all = findAnswers();
    const added = all.filter((one) => !before.has(one)).map((one) => one.textContent);
    if (added.length) {
      const unknown = added.filter((one) => !oldTexts.has(one));
      return (unknown.length ? unknown : added).at(-1);
    }
    return all.findLast((one) => one.textContent !== before.get(one))?.textContent ?? "";
  };

  const channel = new MessageChannel();
  const pending = [];
  channel.port1.onmessage = () => pending.splice(0).forEach((one) => mark("after-frame", { number: one }));
  const afterFrame = (one) =>
    requestAnimationFrame(() => {
      pending.push(one);
      channel.port2.postMessage(null);
    });

  // Marks what of the shown text stays: `start` at its beginning and `end` at its end, of `before` UTF-16 units. A
  // beginning of it is nothing new: a page that draws an answer anew may shorten it for a moment.
  const markText = () => {
    if (shown.startsWith(text)) return;
    const most = Math.min(shown.length, text.length);
    let start = text.startsWith(shown) ? most : 0;
    let end = 0;
    while (start < most && shown[start] === text[start]) start++;
    while (end < most - start && shown.at(-1 - end) === text.at(-1 - end)) end++;
    mark("text", { number: ++number, chars: text.length, before: shown.length, start, end });
    shown = text;
    afterFrame(number);
  };

  const observe = () => {
    if (!armed) return;
    const now = readText();
    if (now !== text) {
      text = now;
      changedAt = performance.now();
      markText();
    }
    if (stop) {
      const running = document.querySelector(stop) !== null;
      if (wasRunning && !running) mark("stopped", {});
      wasRunning = running;
      hasRun ||= running;
    }
  };

  // Text that fades in counts as painted with its first frame, however faint: how long it stays faint is told.
  const observeFade = ({ target }) => {
    if (!armed || !(target.closest(answer) || target.querySelector(answer))) return;
    for (const { effect } of target.getAnimations()) {
      const { endTime } = effect.getComputedTiming();
      if (Number.isFinite(endTime) && effect.getKeyframes().some((one) => "opacity" in one)) fade = Math.max(fade, endTime);
    }
  };

  const options = { subtree: true, childList: true, characterData: true, attributes: Boolean(stop) };
  new MutationObserver(observe).observe(document, options);
  document.addEventListener("input", (event) => mark("key", { at: event.timeStamp }), true);
  for (const name of ["pointerdown", "click"])
    document.addEventListener(
      name,
      (event) => stop && event.target.closest?.(stop) && mark("pressed", { at: event.timeStamp }),
      true,
    );
  for (const name of ["animationstart", "transitionrun"]) document.addEventListener(name, observeFade, true);
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) if (!entry.hadRecentInput) shift += armed ? entry.value : 0;
  }).observe({ type: "layout-shift", buffered: false });

  window.streamgaugeObserver = {
    arm() {
      for (const one of findAnswers()) {
        before.set(one, one.textContent);
        oldTexts.add(one.textContent);
      }
      armed = true;
      observe();
    },
    sync() {
      mark("sync", {});
    },
    state() {
      const quiet = shown ? performance.now() - changedAt : 0;
      const ended = hasRun && !wasRunning;
      return { armed, chars: shown.length, hasRun, ended, quiet_ms: quiet, text: text || shown, shift, fade };
    },
  };
})();
