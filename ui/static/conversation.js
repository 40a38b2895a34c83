// The conversation of this tab in the browser's storage, so that loading the page again loses nothing of it. Runs before
// the page is rendered. The tab's own storage ends with it; the history has the conversation for all tabs. No API key is
// ever passed to this script.
window.streamgaugeConversation = (() => {
  const KEY = "streamgauge-conversation", WRITE_INTERVAL_MS = 500, LOCK_TRIES = 30, RETRY_MS = 100, RESUME_MS = 2000;
  const history = window.streamgaugeHistory, branches = window.streamgaugeBranches, { newId } = history;
  const find = (selector) => document.querySelector(selector);
  const read = () => {
    try {
      const found = JSON.parse(sessionStorage.getItem(KEY));
      return /^[0-9a-f]{32}$/.test(found?.id) && Array.isArray(found.messages) ? found : null;
    } catch {
      return null;
    }
  };
  const before = read();
  // Gradio's components report their first values as changes, before those of the storage are shown.
  let loaded = false;
  // Until the service has restored a conversation, the chat may still draw an update of the one before.
  let restoring = before !== null;
  // `sent` is a message on its way to the service, which the conversation does not show yet. `tree` has its branches, if a
  // question was edited; `editing` is the question whose text is in the message box.
  const kept = before ?? { id: newId(), messages: [], settings: null, draft: "", sent: "", search: location.search };
  // The service knows the newest answer of each branch by an id of its own.
  const answerId = () => kept.tree?.paths[kept.tree.shown].answer ?? kept.id;
  // The branches of a conversation that is cleared, until it is brought back.
  let cleared = null;
  // An address that names settings of its own prevails; the page writes those that are chosen into its address.
  let settings = ["", kept.search].includes(location.search) ? kept.settings : null;
  // The model that is restored with its provider.
  let model = settings && { provider: settings.provider, name: settings.model };
  // The conversation that is opened next, and how many have been.
  let next = null, opened = 0, leaving = false;
  // Resolved when the conversation that is loaded or opened is shown whole, so that another one can be opened.
  let ready, setReady, lastResumed = "";
  const expectReady = () => { ready = new Promise((resolve) => { setReady = resolve; }); };
  expectReady();

  const warn = (name) => {
    const note = find(`#sg-not-kept [data-note="${name}"]`);
    if (note) note.hidden = false;
  };
  // Only what has changed on this page is written to the history: another tab may have written what this one shows.
  const summarise = () => JSON.stringify([kept.messages, kept.settings, kept.tree]);
  let written = summarise(), count = kept.messages.length;
  const writeHistory = () => {
    const now = summarise();
    if (now === written) return;
    const { id, messages, tree } = kept, known = history.get(id);
    if (messages.length > 0) {
      const updated = known && messages.length === count ? known.updated : Date.now();
      const title = known?.title ?? history.titleOf(messages);
      if (!history.put({ id, title, updated, settings: kept.settings, messages, tree })) warn("history");
    } else if (count > 0) {
      history.remove(id);
    }
    written = now;
    count = messages.length;
  };
  let timer = null;
  const write = () => {
    timer = clearTimeout(timer) ?? null;
    try {
      sessionStorage.setItem(KEY, JSON.stringify({ ...kept, search: location.search }));
    } catch {
      warn("page");
    }
    if (loaded) writeHistory();
  };
  const writeSoon = () => { timer ??= setTimeout(write, WRITE_INTERVAL_MS); };
  addEventListener("pagehide", write);
  document.addEventListener("visibilitychange", () => { if (document.visibilityState === "hidden") write(); });
  // A page from the cache of Back and Forward has lost its connections.
  addEventListener("pageshow", ({ persisted }) => { if (persisted) location.reload(); });
  document.addEventListener("input", ({ target }) => {
    if (!target.closest?.("#sg-message")) return;
    kept.draft = target.value;
    writeSoon();
  });

  // A tab holds the lock of its own name until it ends. A duplicate begins with a copy of the tab's storage and does not
  // get the lock: it continues with the text, as a conversation of its own. A page that is loaded again gets it as soon as
  // the one before has gone; tries are counted, because a busy page may see a time limit pass before the answer to its
  // request. Where the browser has no locks (another machine without HTTPS), duplicates are not noticed.
  kept.tab ??= newId();
  const hold = (resolve) => (lock) => {
    resolve(lock !== null);
    return lock && new Promise(() => {});
  };
  const lockTab = () => new Promise((resolve) => {
    navigator.locks.request(`${KEY}-${kept.tab}`, { ifAvailable: true }, hold(resolve)).catch(() => resolve(false));
  });
  const lockOwnTab = async () => {
    for (let tries = 0; tries < LOCK_TRIES; tries += 1) {
      if (await lockTab()) return;
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
    [kept.id, kept.tab] = [newId(), newId()];
    if (kept.tree) kept.tree = branches.renew(kept.tree, newId);
    await lockTab();
  };
  const known = navigator.locks ? lockOwnTab() : Promise.resolve();

  const countAsked = () => kept.messages.filter(({ role }) => role === "user").length;
  const questions = () => kept.messages.filter(({ role }) => role === "user").map(history.textOf);
  const setMessages = (messages) => {
    const before = questions();
    kept.messages = messages ?? [];
    const now = questions();
    if (kept.tree && before.length > 0 && now.length === 0) [cleared, kept.tree] = [{ before, tree: kept.tree }, undefined];
    else if (cleared && now.length > 0) {
      if (now.join() === cleared.before.join()) kept.tree = cleared.tree;
      cleared = null;
    }
    if (kept.tree) kept.tree = branches.follow(kept.tree, kept.messages);
  };

  // What the page says while Gradio waits for the service, before it loads the page again.
  const RECONNECTING = "Reconnecting";
  const watch = () => {
    const notes = [...document.querySelectorAll(".toast-message-text")];
    if (!notes.some(({ textContent }) => textContent.startsWith("Connection to the server was lost"))) return;
    for (const words of document.querySelectorAll("#sg-stage .sg-now strong")) {
      if (words.textContent !== RECONNECTING) words.textContent = RECONNECTING;
    }
  };
  new MutationObserver(watch).observe(document.documentElement, { childList: true, subtree: true });

  // Open what is `next` by the page's own events: `leave`, then `enter`. Resolves when it is shown whole.
  const openNext = () => {
    expectReady();
    leaving = true;
    find("#sg-open-conversation").click();
    return ready;
  };
  const openBranch = ({ tree, messages }) => {
    next = { id: kept.id, settings: kept.settings, tree, messages };
    return openNext();
  };
  const values = (names) => names.map((name) => settings?.[name] ?? undefined);
  return {
    get id() { return kept.id; },
    // The values of a page that is loaded: id, messages, message box, whether there is a conversation, and its settings.
    load: async (names) => {
      await known;
      write();
      kept.draft = kept.sent + kept.draft;
      kept.sent = "";
      loaded = true;
      opened += 1;
      const messages = kept.messages.length ? kept.messages : undefined;
      if (before === null) setReady();
      return [answerId(), messages, kept.draft || undefined, before ? String(opened) : undefined, ...values(names)];
    },
    // Open a conversation of the history, or a new one with the settings of this one. The draft stays in the message box.
    open: async (id) => {
      await ready;
      next = id === null ? { id: newId(), messages: [], settings: kept.settings } : history.get(id);
      if (next !== null) await openNext();
    },
    leave: () => {
      write();
      loaded = false;
    },
    enter: (names) => {
      settings = next.settings;
      model = settings?.provider !== kept.settings?.provider && settings ? { provider: settings.provider, name: settings.model } : null;
      if (next.id !== kept.id) kept.editing = undefined;
      const { id, messages, tree } = next;
      Object.assign(kept, { id, messages, tree, settings: next.settings ?? kept.settings, sent: "" });
      [written, count] = [summarise(), kept.messages.length];
      loaded = restoring = true;
      leaving = false;
      opened += 1;
      write();
      return [answerId(), kept.messages, undefined, String(opened), ...values(names)];
    },
    // Write nothing more of a conversation that is deleted.
    drop: () => { loaded = false; },
    keepMessages: (messages) => {
      if (!loaded || restoring) return;
      if (!leaving) setReady();
      setMessages(messages);
      if (countAsked() > kept.askedBefore) kept.sent = "";
      writeSoon();
    },
    messages: () => kept.messages,
    // Write at once what would be written soon, before the history is read.
    write,
    // `resumed` is a new value if the answer goes on. Gradio cannot cancel its event before that has begun: then the page
    // is ready with its first update.
    onRestored: (messages, resumed) => {
      restoring = false;
      setMessages(messages);
      writeSoon();
      if (resumed === lastResumed) setReady();
      else setTimeout(setReady, RESUME_MS);
      lastResumed = resumed;
    },
    keepSettings: (names, chosen) => {
      if (!loaded) return;
      kept.settings = Object.fromEntries(names.map((name, index) => [name, chosen[index]]));
      if (window.streamgaugeHistory.isSecret(kept.settings.model)) kept.settings.model = "";
      writeSoon();
    },
    keepSent: (text, rest) => {
      [kept.sent, kept.askedBefore] = [text, countAsked()];
      // A draft that was set aside for the edited question is back in the message box.
      kept.draft = rest || (kept.editing?.draft ?? "");
      kept.editing = undefined;
      write();
      return kept.draft;
    },
    // The version of each question that is shown, and how many there are.
    versions: () => (kept.tree ? branches.versions(kept.tree) : questions().map(() => ({ number: 1, count: 1 }))),
    showVersion: async (at, step) => {
      await ready;
      kept.editing = undefined;
      const index = kept.tree ? branches.findBranch(kept.tree, at, step) : -1;
      if (index >= 0) await openBranch(branches.show(kept.tree, kept.messages, index));
    },
    get editing() { return kept.editing; },
    // Begin to edit question number `at`; return its text for the message box, whose draft is set aside.
    edit: (at, draft) => {
      const before = kept.editing;
      kept.editing = { at, draft: before ? before.draft : draft, branch: before?.branch };
      writeSoon();
      return questions()[at];
    },
    // Begin the branch of the edited question. The message can then be sent.
    fork: async () => {
      await ready;
      const { editing } = kept, tree = kept.tree ?? branches.begin(kept.id, kept.messages);
      kept.editing = { ...editing, isForked: true, branch: editing.branch ?? tree.paths[tree.shown].answer };
      await openBranch(branches.fork(tree, kept.messages, editing.at, newId()));
    },
    // Edit nothing; return the draft that was set aside. A branch without a question ends.
    endEdit: () => {
      const { draft, branch } = kept.editing;
      kept.editing = undefined;
      kept.draft = draft;
      const index = kept.tree?.paths.findIndex(({ answer }) => answer === branch) ?? -1;
      if (index >= 0) openBranch(branches.show(kept.tree, kept.messages, index));
      writeSoon();
      return draft;
    },
    // Choosing a provider empties the model box, except when the kept choice is restored.
    takeModel: (provider) => {
      const found = model?.provider === provider ? model.name : null;
      model = null;
      return found;
    },
  };
})();
