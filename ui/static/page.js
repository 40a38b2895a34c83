// Runs once after the page has loaded. Gradio renders the elements; this script does what Gradio has no setting for.
() => {
  const find = (selector) => document.querySelector(selector);
  const visible = (element) => element !== null && element.offsetParent !== null;
  // Change nothing that is already so: each change of an attribute styles the page anew, and some are observed here.
  const setAttribute = (element, name, value) => {
    if (element.getAttribute(name) !== value) element.setAttribute(name, value);
  };
  const setProperty = (element, name, value) => {
    if (element[name] !== value) element[name] = value;
  };

  const settings = find("#sg-settings .toggle-button");
  settings.title = "Settings";
  settings.setAttribute("aria-label", "Settings");
  // What Gradio opens and closes without saying so to screen readers.
  const tellExpanded = () => {
    const tell = (element, isOpen) => setAttribute(element, "aria-expanded", String(isOpen));
    tell(settings, find("#sg-settings.open") !== null);
    for (const button of document.querySelectorAll("button.label-wrap")) tell(button, button.classList.contains("open"));
    for (const title of document.querySelectorAll(".thought-group .title"))
      tell(title, title.parentElement.querySelector(".content, .content-preview") !== null);
  };
  for (const kind of ["click", "keyup"]) document.addEventListener(kind, () => requestAnimationFrame(tellExpanded));
  // On a busy machine Gradio opens the settings only after that frame, and adds or removes no element.
  new MutationObserver(tellExpanded).observe(find("#sg-settings"), { attributeFilter: ["class"] });

  // Stop appears once the service has received the request. An Escape right after sending, before that, is deferred.
  const asks = '#sg-message button.submit-button, #sg-compare-ask, #sg-run, #sg-chat button[aria-label="Retry"]';
  const stops = "#sg-message button.stop-button, #sg-compare-stop-all, #sg-run-stop";
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
  // A stop is shown in the frame of the click, before the service has confirmed it with the receipt.
  document.addEventListener("click", ({ target }) => {
    if (!target.closest?.(`${stops}, .sg-stop`)) return;
    const place = target.closest(".sg-column, [role=tabpanel]");
    for (const words of place.querySelectorAll(":is(.sg-busy, .sg-coming) strong")) words.textContent = "Stopping";
  }, { capture: true });
  document.addEventListener("keydown", ({ key, shiftKey, target }) => {
    if (key === "Enter" && !shiftKey && target.closest?.("#sg-message, #sg-compare-prompt")) ask();
  }, { capture: true });
  // A message waits in its box for the end of an answer. The service refuses it too, but Gradio's note of that is removed
  // by the next update of the answer.
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || !event.target.closest?.("#sg-message")) return;
    if (!visible(find("#sg-message button.stop-button"))) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    const hint = find("#sg-hint p");
    hint.hidden = false;
    setTimeout(() => { hint.hidden = true; }, 4000);
  }, { capture: true });
  // An Escape that closes an open list stops nothing; the list is closed before the event reaches the document.
  let closes = false;
  document.addEventListener("keydown", ({ key }) => {
    // A list that fades out has been closed already, so its visibility does not count.
    closes = key === "Escape" && document.querySelector('[role="combobox"][aria-expanded="true"]') !== null;
  }, { capture: true });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || event.defaultPrevented || closes) return;
    stop()?.click();
    unwanted = !stop() && performance.now() < asked + PATIENCE_MS;
  });

  // An empty model box says which model is the provider's default.
  const showDefault = (box, standard) => {
    if (!box) return;
    setProperty(box, "placeholder", standard ? `Default (${standard})` : "Default");
    setProperty(box, "title", `Leave empty for the default${standard ? ` (${standard})` : ""}`);
  };
  const compared = {};
  const nameDefaults = () => {
    showDefault(find("#sg-model input"), find("#sg-badge [data-model]")?.dataset.model);
    const { models, chosen } = find("#sg-compare-defaults i")?.dataset ?? {};
    if (!models) return;
    const standards = JSON.parse(models);
    chosen.split(",").forEach((provider, number) => {
      const id = `sg-compare-model-${number}`;
      showDefault(find(`#${id} input`), standards[compared[id] ?? provider]);
    });
  };

  // The fields that their reader has written in since they were entered.
  const writing = new WeakSet();
  document.addEventListener("focusin", ({ target }) => writing.delete(target), { capture: true });
  document.addEventListener("input", ({ target }) => writing.add(target), { capture: true });
  window.streamgauge = {
    setProperty,
    // The provider of a model box of the comparison has changed.
    nameDefault: (id, provider) => {
      compared[id] = provider;
      nameDefaults();
    },
    // Return the update by which a model box gets other choices. Gradio's list fails when it loses choices that it shows,
    // so it is closed for it, and then opened again; while a name of the user's own is written, it stays as it is.
    showModels: async (id, names) => {
      const box = find(`#${id} input`), shown = () => find(`#${id} [role="option"]`) !== null;
      const again = shown() && document.activeElement === box && !writing.has(box);
      if (again) box.blur();
      while (shown()) await new Promise(requestAnimationFrame);
      const open = () => { if (document.activeElement === document.body) box.focus({ preventScroll: true }); };
      if (again) requestAnimationFrame(() => requestAnimationFrame(open));
      return { __type__: "update", choices: names.map((name) => [name, name]) };
    },
    // What other scripts add to the page whenever it has changed.
    afterMend: [],
    // Do as a user would: fill in the textbox and press Send.
    send: (text) => {
      const box = find("#sg-message textarea");
      box.value = text;
      box.dispatchEvent(new Event("input", { bubbles: true }));
      requestAnimationFrame(() => find("#sg-message button.submit-button")?.click());
    },
    retry: () => find('#sg-chat button[aria-label="Retry"], #sg-chat button[title="Retry"]')?.click(),
    // The browser creates the file from text that it already has, without a request.
    save: (name, text) => {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([text], { type: "text/plain;charset=utf-8" }));
      link.download = name;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    },
  };

  // The service sends angle brackets to the chat as entities, so that they are not parsed as tags; copying must restore
  // the original text.
  const written = window.streamgaugeHistory.unescape;
  // "Copy message" copies the answer alone, without its thinking and its receipt, in place of Gradio's own copying.
  const spoken = (row) => [...row.querySelectorAll('[data-testid="bot"], [data-testid="user"]')]
    .filter((message) => !message.querySelector(".thought-group, .sg-who"))
    .map((message) => written(message.getAttribute("aria-label").replace(/^(?:bot|user)'s message: /, "")));
  const copy = (text) => {
    if (navigator.clipboard) return navigator.clipboard.writeText(text);
    // Over plain HTTP there is no clipboard API.
    const box = Object.assign(document.createElement("textarea"), { value: text });
    document.body.append(box);
    box.select();
    document.execCommand("copy");
    box.remove();
    return Promise.resolve();
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.('.message-buttons button[aria-label="Copy message"]');
    const row = button?.closest(".message-buttons").previousElementSibling;
    if (!row) return;
    event.stopImmediatePropagation();
    copy(spoken(row).join("\n\n")).then(() => {
      button.dataset.copied = "";
      setTimeout(() => { delete button.dataset.copied; }, 2000);
    });
  }, { capture: true });

  // A conversation scrolls to its end as it grows, unless the reader has scrolled back, or has opened a thought or a
  // receipt without scrolling since; closing it resumes scrolling. The first view stays at its start. A ResizeObserver
  // runs after layout, whereas Gradio's own autoscroll forces two more layouts.
  const ends = new WeakMap(), tops = new WeakMap(), left = new WeakSet();
  const follow = new ResizeObserver((sizes) => {
    for (const log of new Set(sizes.map(({ target }) => target.closest('[role="log"]')))) {
      const content = log?.querySelector(".message-wrap");
      if (!content || log.clientHeight === 0 || log.querySelector(".sg-first")) continue;
      const end = log.scrollHeight - log.clientHeight;
      if (end <= ends.get(content) && log.scrollTop > end - 1) left.delete(content);
      ends.set(content, end);
      if (left.has(content)) continue;
      log.scrollTop = end;
      // A conversation that gets shorter moves its end up; the scroll event of that is no reader's.
      tops.set(content, log.scrollTop);
    }
  });
  document.addEventListener("scroll", ({ target: log }) => {
    const content = log !== document && log.matches('[role="log"]') && log.querySelector(".message-wrap");
    if (!content) return;
    // The answer may have grown since the reader reached the end, before this event tells of it.
    if (log.scrollTop > Math.min(ends.get(content) ?? Infinity, log.scrollHeight - log.clientHeight) - 2) left.delete(content);
    else if (log.scrollTop < (tops.get(content) ?? 0)) left.add(content);
    tops.set(content, log.scrollTop);
  }, { capture: true, passive: true });
  // The first step of a scroll is often so small that following the end would undo it before its event comes.
  let touchedAt = 0;
  const letGo = (event, upwards) => {
    const log = event.target.closest?.('[role="log"]');
    const content = log?.querySelector(".message-wrap");
    if (content && upwards && log.scrollHeight > log.clientHeight) left.add(content);
  };
  const listen = (kind, act) => document.addEventListener(kind, act, { capture: true, passive: true });
  listen("wheel", (event) => letGo(event, event.deltaY < 0));
  listen("touchstart", ({ touches }) => { touchedAt = touches[0].clientY; });
  listen("touchmove", (event) => letGo(event, event.touches[0].clientY > touchedAt));
  listen("keydown", (event) => letGo(event, ["ArrowUp", "PageUp", "Home"].includes(event.key)));
  const opened = (event) => {
    const content = event.target.closest(".thought-group .title")?.closest(".message-wrap");
    if (content && [undefined, "Enter", " "].includes(event.key)) left.add(content);
  };
  for (const kind of ["click", "keydown"]) document.addEventListener(kind, opened, { capture: true });

  // A log is busy during its answer, so that a screen reader announces the status line and then the complete answer.
  const mark = () => {
    for (const log of document.querySelectorAll('#sg-tab-chat [role="log"], .sg-column [role="log"]')) {
      const place = log.closest(".sg-column") ?? log.closest("#sg-tab-chat");
      const busy = String(visible(place.querySelector("#sg-message button.stop-button, .sg-stop")));
      if (log.getAttribute("aria-busy") === busy) continue;
      log.setAttribute("aria-busy", busy);
      if (busy === "true") left.delete(log.querySelector(".message-wrap"));  // a sender wants to see the answer
    }
  };

  // Repair accessibility faults in the HTML of Gradio and Markdown: an unnamed button inside a button, and scrollable
  // tables that the keyboard cannot reach.
  const mend = () => {
    tellExpanded();
    groupProviders();
    nameDefaults();
    for (const arrow of document.querySelectorAll(".thought-group .title .arrow:not([inert])")) arrow.inert = true;
    for (const fold of document.querySelectorAll("#sg-who > button"))
      setAttribute(fold, "aria-expanded", String(fold.classList.contains("open")));
    find("#sg-tab-chat").toggleAttribute("data-retry", find("#sg-retry:not(.hidden)") !== null);
    for (const empty of document.querySelectorAll(".empty[aria-label]:not([role])")) empty.setAttribute("role", "img");
    // Each empty column would be a landmark of the same name.
    for (const empty of document.querySelectorAll('.placeholder-content[role="complementary"]')) empty.removeAttribute("role");
    for (const table of document.querySelectorAll(".sg-tables table:not([tabindex])")) table.tabIndex = 0;
    // Tab would stop at a list that scrolls, which closes then and leaves the focus nowhere.
    for (const list of document.querySelectorAll('[role="listbox"]:not([tabindex])')) list.tabIndex = -1;
    for (const content of document.querySelectorAll('[role="log"] > .message-wrap')) {
      if (ends.has(content)) continue;
      ends.set(content, 0);
      follow.observe(content);
      follow.observe(content.parentElement);
    }
    mark();
    heard();
    for (const act of window.streamgauge.afterMend) act();
  };
  // The clock and the metrics of an answer come as a list of texts, each for the element of its number.
  const fill = () => {
    for (const list of document.querySelectorAll(".sg-figures")) {
      const texts = list.dataset.values.split("|");
      for (const element of list.closest(".sg-column, [role=tabpanel]").querySelectorAll("[data-figure]")) {
        setProperty(element, "textContent", texts[element.dataset.figure]);
      }
    }
  };
  // The open list of providers has a heading above the first of each group.
  const groupProviders = () => {
    const groups = JSON.parse(find(".sg-groups")?.dataset.groups ?? "{}");
    let above = null;
    for (const option of document.querySelectorAll('.sg-providers [role="option"]')) {
      const group = groups[option.getAttribute("aria-label")];
      if (group && group !== above) option.dataset.group = group;
      else delete option.dataset.group;
      above = group ?? above;
    }
  };
  // Complete what Gradio leaves out of an answer that it has drawn: the direction of each paragraph by its own text,
  // colours for code in languages that it does not know, scrolling tables that the keyboard reaches, and words in place
  // of an image that the page may not load.
  const GRAMMARS = [
    [/^(ts|tsx|typescript|jsx|mjs|node|json5|jsonc)$/, "javascript"], [/^(vue|svelte|xhtml|jinja2?)$/, "markup"],
    [/^(scss|sass|less)$/, "css"], [/^(sh|shell|zsh|console|fish|dockerfile|makefile|toml|ini)$/, "bash"],
    [/^(cs|csharp|kotlin|kt|swift|scala|dart|objc|groovy|proto|zig|r|julia|lua|ruby|rb|perl|haskell|hs)$/, "clike"],
  ];
  const grammarOf = (code) => {
    const language = /\blanguage-(\S+)/.exec(code.className)?.[1].toLowerCase();
    const similar = GRAMMARS.find(([names]) => names.test(language ?? ""))?.[1];
    const { languages } = window.Prism ?? { languages: {} };
    return languages[language] ? null : languages[similar] ?? (similar ? languages.clike : null);
  };
  // The direction of a list is that of its items, which must have none of their own.
  const BLOCKS = ["p", "ul", "ol", "h1", "h2", "h3", "h4", "h5", "h6", "td", "th"];
  const DIRECTED = BLOCKS.map((name) => `[role="log"] .md ${name}:not([dir])`).join();
  const complete = (part) => {
    for (const block of part.querySelectorAll(DIRECTED)) block.dir = "auto";
    for (const table of part.querySelectorAll('[role="log"] .md table:not([tabindex])')) table.tabIndex = 0;
    for (const code of part.querySelectorAll('[role="log"] .md pre code[class*="language-"]:not([data-seen])')) {
      code.dataset.seen = "";
      const grammar = code.querySelector(".token") ? null : grammarOf(code);
      if (grammar) code.innerHTML = window.Prism.highlight(code.textContent, grammar, "similar");
    }
  };
  document.addEventListener("error", ({ target: image }) => {
    if (!(image instanceof HTMLImageElement) || !image.closest('[role="log"] .md')) return;
    const words = document.createElement("span");
    words.className = "sg-blocked";
    words.textContent = `Image not loaded: ${image.alt || "no description"} (${image.getAttribute("src")})`;
    image.replaceWith(words);
  }, { capture: true });

  // The focused element may be disabled or hidden during an answer, which loses the focus. Move it to the input for the
  // next request unless the user has moved it meanwhile; do not open a touch keyboard for it.
  const homes = ["#sg-message textarea", "#sg-compare-prompt textarea", "#sg-run-prompt input"];
  const usable = (element) => visible(element) && !element.disabled;
  for (const kind of ["focusin", "focusout"]) document.addEventListener(kind, ({ target }) => {
    if (target.matches("#sg-message textarea")) find("#sg-tab-chat").toggleAttribute("data-writing", kind === "focusin");
  });
  let last = null, tab = null;
  document.addEventListener("focusin", (event) => {
    last = event.target;
    tab = last.closest('[role="tabpanel"]');
  });
  document.addEventListener("pointerdown", () => { last = null; });
  // A user who leaves an element by Tab has moved the focus, even if it is nowhere for a moment.
  document.addEventListener("keydown", ({ key }) => { if (key === "Tab") last = null; }, { capture: true });
  const bring = () => {
    if (document.activeElement !== document.body || last === null) return;
    const home = homes.map(find).find((element) => element !== null && tab?.contains(element));
    const wanted = usable(last) ? last : home;
    // A list that was closed by a choice would open again.
    if (!wanted || !usable(wanted) || wanted.matches('[role="combobox"]')) return;
    if (wanted.matches("textarea, input") && matchMedia("(pointer: coarse)").matches) return;
    wanted.focus({ preventScroll: true });
  };

  // Tell the service the newest update that is drawn; while more wait, it holds the next ones back. Gradio changes the
  // number of an update in place, as an attribute. What is drawn while a report is on its way is in the next one.
  const REPORT_INTERVAL_MS = 80;
  const newestUpdate = () => [...document.querySelectorAll("[data-update]")]
    .reduce((newest, { dataset }) => Math.max(newest, Number(dataset.update)), 0);
  let reported = 0, reporting = false;
  const reportDrawn = async () => {
    const name = find("#sg-page [data-page]")?.dataset.page;
    if (reporting || !name) return;
    reporting = true;
    while (newestUpdate() > reported) {
      // The timer of a callback that runs before a frame is drawn ends after it.
      await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve, REPORT_INTERVAL_MS)));
      reported = newestUpdate();
      await fetch(`drawn/${reported}?session_hash=${name}`, { method: "POST" }).catch(() => {});
    }
    reporting = false;
  };

  // Run in the frame that renders the change: reading positions earlier would force an extra layout. What changes with
  // each update of an answer, its text, its figures and the state of the buttons below it, needs no repair of the page.
  // A hidden or disabled element loses the focus only after that frame.
  let due = false;
  const parts = new Set();
  const changed = new MutationObserver((changes) => {
    if (parts.size === 0) requestAnimationFrame(() => {
      fill();
      parts.forEach(complete);
      parts.clear();
      reportDrawn();
    });
    for (const { target } of changes) parts.add(target.closest(".md") ?? target);
    const isOfAnswer = ({ target, attributeName }) => attributeName?.startsWith("data-")
      || target.closest('[role="log"] .md, #sg-figures, [data-figure], [data-testid="status-tracker"]')
      || (attributeName === "disabled" && target.closest(".message-buttons"));
    if (due || changes.every(isOfAnswer)) return;
    due = true;
    requestAnimationFrame(() => {
      due = false;
      mend();
      setTimeout(bring, 100);
    });
  });
  changed.observe(document.body, { childList: true, subtree: true, attributeFilter: ["disabled", "data-values", "data-update"] });
  changed.observe(find("#sg-line"), { childList: true, subtree: true, attributes: true });
  mend();
  fill();
  complete(document);
  for (const box of document.querySelectorAll("textarea")) box.dir = "auto";

  // Below a path that the service was not told of, the page is shown, but none of its requests arrives.
  const below = location.pathname.replace(/\/+$/, ""), known = new URL(window.gradio_config?.root ?? "", location.href).pathname;
  if (known.replace(/\/+$/, "") !== below) {
    const note = find('#sg-not-kept [data-note="path"]').cloneNode(true);
    note.textContent = note.textContent.replaceAll("{path}", below || "/");
    note.hidden = false;
    find("#sg-stage .html-container").replaceChildren(note);
  }

  // Gradio makes room for the settings on a window resize, which it misses while another tab is shown.
  let shown = true;
  new ResizeObserver(([{ contentRect }]) => {
    if (contentRect.width > 0 && !shown) dispatchEvent(new Event("resize"));
    shown = contentRect.width > 0;
    // A selector that asks for the tab's style attribute would style the page anew whenever any such attribute changes.
    find("#sg-tab-chat").closest(".sidebar-parent")?.toggleAttribute("data-without-settings", !shown);
  }).observe(find("#sg-tab-chat"));

  // Count down the seconds until a rejected request can be sent again.
  const until = new WeakMap();
  setInterval(() => {
    for (const element of document.querySelectorAll("[data-left-s]")) {
      if (!until.has(element)) until.set(element, performance.now() + 1000 * Number(element.dataset.leftS));
      const left_s = Math.max(0, Math.ceil((until.get(element) - performance.now()) / 1000));
      element.textContent = `${left_s} s left`;
    }
  }, 250);
}
