// Runs once when the page has loaded. Gradio draws the elements; what it has no setting for is done here.
() => {
  // The sign that Gradio shows while a page loads goes on counting in every frame when it is gone, and the browser draws
  // every frame for it. It asks for the time and then for its next frame, whose number is one more than the last: that
  // one is taken back, and the counting has ended.
  performance.now = () => {
    if (new Error().stack.includes("/statustracker-")) {
      const number = requestAnimationFrame(() => {}) + 1;
      queueMicrotask(() => cancelAnimationFrame(number));
    }
    return Performance.prototype.now.call(performance);
  };
  requestAnimationFrame(() => requestAnimationFrame(() => { delete performance.now; }));

  // With every update Gradio copies what the inputs of its events are made of, value by value, functions too: for all
  // but objects the browser's own copying is dear. What comes out is the same.
  const copy = window.structuredClone.bind(window);
  const uncopied = new DOMException("A function cannot be copied.", "DataCloneError");
  window.structuredClone = (value, options) => {
    if (typeof value === "function") throw uncopied;
    return typeof value === "object" || typeof value === "symbol" ? copy(value, options) : value;
  };

  const find = (selector) => document.querySelector(selector);
  const visible = (element) => element !== null && element.offsetParent !== null;

  // Where it would cover the conversation, the settings stay closed until they are asked for.
  const settings = find("#sg-settings .toggle-button");
  settings.title = "Settings";
  settings.setAttribute("aria-label", "Settings");
  const open = find("#sg-settings.open") !== null;
  if (!open && matchMedia("(min-width: 1000px)").matches) settings.click();

  // Stop is there once the service has heard of a question: an Escape before that, of who has just asked, waits for it.
  const asks = '#sg-message button.submit-button, #sg-compare-ask, #sg-run, #sg-chat button[aria-label="Retry"]';
  const stops = "#sg-stop, #sg-compare-stop-all, #sg-run-stop";
  const PATIENCE_MS = 5000;
  let asked = -Infinity, unwanted = false;
  const ask = () => { [asked, unwanted] = [performance.now(), false]; };
  const stop = () => [...document.querySelectorAll(stops)].find(visible);
  const heard = () => {
    if (!stop()) return;
    if (unwanted) stop().click();
    [asked, unwanted] = [-Infinity, false];
  };
  document.addEventListener("click", ({ target }) => { if (target.closest?.(asks)) ask(); }, { capture: true });
  document.addEventListener("keydown", ({ key, shiftKey, target }) => {
    if (key === "Enter" && !shiftKey && target.closest?.("#sg-message")) ask();
  }, { capture: true });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || event.defaultPrevented) return;
    stop()?.click();
    unwanted = !stop() && performance.now() < asked + PATIENCE_MS;
  });

  window.streamgauge = {
    // What a person would do: write into the box and press Send.
    send: (text) => {
      const box = find("#sg-message textarea");
      box.value = text;
      box.dispatchEvent(new Event("input", { bubbles: true }));
      requestAnimationFrame(() => find("#sg-message button.submit-button")?.click());
    },
    retry: () => find('#sg-chat button[aria-label="Retry"], #sg-chat button[title="Retry"]')?.click(),
    // The file is made here, of text that is here: it is asked for nowhere.
    save: (name, text) => {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([text], { type: "text/plain;charset=utf-8" }));
      link.download = name;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    },
  };

  // The chat is handed angle brackets as entities, so that they are not drawn as tags; what is copied is what was
  // written. The pattern is that of ui/markdown_text.py: code has no entities.
  const CODE =
    /^ {0,3}(`{3,}|~{3,})[^\n]*(?:\n(?:.*\n)*? {0,3}\1[`~]*[ \t]*$|(?:\n.*)*$(?![\s\S]))|(?<!`)(`+)(?!`)(?:[^\n]|\n(?!\n)){1,2000}?(?<!`)\2(?!`)|\\[^\w\s]|((?:(?:ftp|https?):\/\/|www\.)\S*)/gm;
  const written = (text) => {
    let end = 0, out = "";
    const plain = (prose) => prose.replace(/&(lt|amp);/g, (_, name) => (name === "lt" ? "<" : "&"));
    for (const found of text.matchAll(CODE)) {
      if (found[3]) continue;
      out += plain(text.slice(end, found.index)) + found[0];
      end = found.index + found[0].length;
    }
    return out + plain(text.slice(end));
  };
  if (navigator.clipboard) {
    const write = navigator.clipboard.writeText.bind(navigator.clipboard);
    navigator.clipboard.writeText = (text) => write(written(text));
  } else {
    // Over plain http there is no clipboard to write to: Gradio puts a textarea first in the body, and copies that.
    document.addEventListener("copy", (event) => {
      if (event.target.parentElement !== document.body || event.target.tagName !== "TEXTAREA") return;
      event.clipboardData.setData("text/plain", written(event.target.value));
      event.preventDefault();
    });
  }

  // A conversation follows its text to the end, unless its reader has gone back, or has opened something and not moved
  // since: closed again, all is as before. Told of sizes, the script finds all laid out; Gradio's own following has it
  // laid out twice more.
  const ends = new WeakMap(), left = new WeakSet();
  const follow = new ResizeObserver((sizes) => {
    for (const log of new Set(sizes.map(({ target }) => target.closest('[role="log"]')))) {
      const content = log?.querySelector(".message-wrap");
      if (!content || log.clientHeight === 0) continue;
      const end = log.scrollHeight - log.clientHeight;
      if (end <= ends.get(content) && log.scrollTop > end - 1) left.delete(content);
      ends.set(content, end);
      if (!left.has(content)) log.scrollTop = end;
    }
  });
  document.addEventListener("scroll", ({ target: log }) => {
    const content = log !== document && log.matches('[role="log"]') && log.querySelector(".message-wrap");
    if (!content) return;
    if (log.scrollTop > ends.get(content) - 100) left.delete(content);
    else left.add(content);
  }, { capture: true, passive: true });
  const opened = (event) => {
    const content = event.target.closest(".thought-group .title")?.closest(".message-wrap");
    if (content && [undefined, "Enter", " "].includes(event.key)) left.add(content);
  };
  for (const kind of ["click", "keydown"]) document.addEventListener(kind, opened, { capture: true });

  // A log is busy while its answer comes, so that a screen reader hears the status line and then the whole answer.
  const mark = () => {
    for (const log of document.querySelectorAll('#sg-tab-chat [role="log"], .sg-column [role="log"]')) {
      const place = log.closest(".sg-column") ?? log.closest("#sg-tab-chat");
      const busy = String(visible(place.querySelector("#sg-stop, .sg-stop")));
      if (log.getAttribute("aria-busy") === busy) continue;
      log.setAttribute("aria-busy", busy);
      if (busy === "true") left.delete(log.querySelector(".message-wrap"));  // who asks wants to see the answer
    }
  };

  // What Gradio and Markdown draw and assistive technology trips over: a list that holds buttons and no items, a button
  // without a name inside of a button, tables that scroll and cannot be reached by keyboard.
  const mend = () => {
    for (const list of document.querySelectorAll('.examples[role="list"]')) list.removeAttribute("role");
    for (const arrow of document.querySelectorAll(".thought-group .title .arrow:not([inert])")) arrow.inert = true;
    for (const empty of document.querySelectorAll(".empty[aria-label]:not([role])")) empty.setAttribute("role", "img");
    for (const table of document.querySelectorAll("#sg-report table:not([tabindex])")) table.tabIndex = 0;
    for (const content of document.querySelectorAll('[role="log"] > .message-wrap')) {
      if (ends.has(content)) continue;
      ends.set(content, 0);
      follow.observe(content);
      follow.observe(content.parentElement);
    }
    mark();
    heard();
  };
  // What had the focus may be switched off or hidden while an answer comes, and the focus is nowhere then. It goes to
  // where the next question is asked, unless it was put elsewhere meanwhile; no finger's keyboard is opened for it.
  const homes = ["#sg-message textarea", "#sg-compare-ask", "#sg-run"];
  const usable = (element) => visible(element) && !element.disabled;
  let last = null, tab = null;
  document.addEventListener("focusin", (event) => {
    last = event.target;
    tab = last.closest('[role="tabpanel"]');
  });
  document.addEventListener("pointerdown", () => { last = null; });
  const bring = () => {
    if (document.activeElement !== document.body || last === null) return;
    const home = homes.map(find).find((element) => element !== null && tab?.contains(element));
    const wanted = usable(last) ? last : home;
    if (!wanted || !usable(wanted)) return;
    if (wanted.matches("textarea, input") && matchMedia("(pointer: coarse)").matches) return;
    wanted.focus({ preventScroll: true });
  };

  // In the frame that draws what has changed: asked for before, where things are would have to be found out for this alone.
  // In the text of an answer nothing is mended. What is hidden or switched off loses the focus only after that frame.
  let due = false;
  const changed = new MutationObserver((changes) => {
    if (due || changes.every(({ target }) => target.closest('[role="log"] .md'))) return;
    due = true;
    requestAnimationFrame(() => {
      due = false;
      mend();
      setTimeout(bring, 100);
    });
  });
  changed.observe(document.body, { childList: true, subtree: true, attributeFilter: ["disabled"] });
  changed.observe(find("#sg-line"), { childList: true, subtree: true, attributes: true });
  mend();

  // Gradio makes room for the settings when the window's size changes, which it misses while another tab is shown.
  let shown = true;
  new ResizeObserver(([{ contentRect }]) => {
    if (contentRect.width > 0 && !shown) dispatchEvent(new Event("resize"));
    shown = contentRect.width > 0;
  }).observe(find("#sg-tab-chat"));

  // A refusal that passes says for how long yet.
  const until = new WeakMap();
  setInterval(() => {
    for (const element of document.querySelectorAll("[data-left-s]")) {
      if (!until.has(element)) until.set(element, performance.now() + 1000 * Number(element.dataset.leftS));
      const left_s = Math.max(0, Math.ceil((until.get(element) - performance.now()) / 1000));
      element.textContent = `${left_s} s left`;
    }
  }, 250);
}
