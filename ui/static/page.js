// Runs once after the page has loaded. Gradio renders the elements; this script does what Gradio has no setting for.
() => {
  const find = (selector) => document.querySelector(selector);
  const visible = (element) => element !== null && element.offsetParent !== null;

  // On a narrow screen the settings would cover the conversation, so they stay closed until the user opens them.
  const settings = find("#sg-settings .toggle-button");
  settings.title = "Settings";
  settings.setAttribute("aria-label", "Settings");
  const open = find("#sg-settings.open") !== null;
  if (!open && matchMedia("(min-width: 1000px)").matches) settings.click();

  // Stop appears once the service has received the request. An Escape right after sending, before that, is deferred.
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

  window.streamgauge = {
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
  // the original text. The pattern equals that of ui/markdown_text.py: code has no entities.
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
  // "Copy message" copies the answer alone, without its thinking and its receipt, in place of Gradio's own copying.
  const spoken = (row) => [...row.querySelectorAll('[data-testid="bot"], [data-testid="user"]')]
    .filter((message) => !message.querySelector(".thought-group"))
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
  // receipt without scrolling since; closing it resumes scrolling. A ResizeObserver runs after layout, whereas Gradio's
  // own autoscroll forces two more layouts.
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

  // A log is busy during its answer, so that a screen reader announces the status line and then the complete answer.
  const mark = () => {
    for (const log of document.querySelectorAll('#sg-tab-chat [role="log"], .sg-column [role="log"]')) {
      const place = log.closest(".sg-column") ?? log.closest("#sg-tab-chat");
      const busy = String(visible(place.querySelector("#sg-stop, .sg-stop")));
      if (log.getAttribute("aria-busy") === busy) continue;
      log.setAttribute("aria-busy", busy);
      if (busy === "true") left.delete(log.querySelector(".message-wrap"));  // a sender wants to see the answer
    }
  };

  // Repair accessibility faults in the HTML of Gradio and Markdown: a list with buttons but no items, an unnamed button
  // inside a button, and scrollable tables that the keyboard cannot reach.
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
  const complete = () => {
    for (const block of document.querySelectorAll(DIRECTED)) block.dir = "auto";
    for (const table of document.querySelectorAll('[role="log"] .md table:not([tabindex])')) table.tabIndex = 0;
    for (const code of document.querySelectorAll('[role="log"] .md pre code[class*="language-"]:not([data-seen])')) {
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
  const homes = ["#sg-message textarea", "#sg-compare-ask", "#sg-run"];
  const usable = (element) => visible(element) && !element.disabled;
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
    if (!wanted || !usable(wanted)) return;
    if (wanted.matches("textarea, input") && matchMedia("(pointer: coarse)").matches) return;
    wanted.focus({ preventScroll: true });
  };

  // Run in the frame that renders the change: reading positions earlier would force an extra layout. Changes inside an
  // answer's text need no repair of the page. A hidden or disabled element loses the focus only after that frame.
  let due = false, drawn = false;
  const changed = new MutationObserver((changes) => {
    if (!drawn) {
      drawn = true;
      requestAnimationFrame(() => {
        drawn = false;
        complete();
      });
    }
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
  for (const box of document.querySelectorAll("textarea")) box.dir = "auto";

  // Gradio makes room for the settings on a window resize, which it misses while another tab is shown.
  let shown = true;
  new ResizeObserver(([{ contentRect }]) => {
    if (contentRect.width > 0 && !shown) dispatchEvent(new Event("resize"));
    shown = contentRect.width > 0;
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
