// The page's address: it names the tab and the settings that differ from the page's own, and opens them.
() => {
  const TABS = ["chat", "compare", "pipeline", "results"], FIRST_TAB = "chat";
  const PATIENCE_MS = 10000;
  const find = (selector) => document.querySelector(selector);
  const tabOf = (query) => TABS.find((name) => name === new URLSearchParams(query).get("tab")) ?? FIRST_TAB;

  // The parameters of each tab, by the values of its components. The service reads the same in ui/address/query.py.
  const parameters = {
    chat: ([provider, model, strategy, max_tokens]) => ({ provider, model, strategy, max_tokens }),
    compare: ([count, max_tokens, blind, ...fields]) => {
      const columns = Array.from({ length: count }, (_, n) => fields.slice(3 * n, 3 * n + 3));
      const names = columns.map(([provider, model]) => (model ? `${provider.split(":")[0]}:${model}` : provider));
      const strategies = columns.map(([, , strategy]) => strategy);
      const strategy = new Set(strategies).size === 1 ? strategies[0] : strategies.join();
      return { models: names.join(), strategy, max_tokens, blind: blind ? "1" : "" };
    },
    pipeline: ([scenario, left, right, interval]) => ({ scenario, left, right, interval: String(interval) }),
  };
  const NAMES = new Set(["tab"]);
  for (const name of ["provider", "model", "models", "strategy", "max_tokens", "blind"]) NAMES.add(name);
  for (const name of ["scenario", "left", "right", "interval"]) NAMES.add(name);

  let current = tabOf(location.search), pending = null;
  // Nothing is written before the settings of the opened address have been set.
  let isOpen = ![...new URLSearchParams(location.search).keys()].some((name) => NAMES.has(name));
  const kept = {};
  const address = () => {
    const query = new URLSearchParams(location.search);
    for (const name of NAMES) query.delete(name);
    if (current !== FIRST_TAB) query.set("tab", current);
    for (const [name, value] of Object.entries(kept[current] ?? {})) query.set(name, value);
    // Commas and colons may stand in a query as they are, and are easier to read.
    const text = query.toString().replaceAll("%2C", ",").replaceAll("%3A", ":");
    return `${location.pathname}${text && `?${text}`}${location.hash}`;
  };
  const write = () => {
    if (isOpen && address() !== location.pathname + location.search + location.hash)
      history.replaceState(history.state, "", address());
  };

  const showTab = (name) => find(`#sg-tabs button[role="tab"][data-tab-id="${name}"]`)?.click();
  const when = (ready, act, until = performance.now() + PATIENCE_MS) => {
    if (ready()) act();
    else if (performance.now() < until) requestAnimationFrame(() => when(ready, act, until));
  };
  const fill = (selector, text) => {
    const box = find(selector);
    box.value = text;
    box.dispatchEvent(new Event("input", { bubbles: true }));
  };
  const act = ({ fill: box, text, press, show, show_narrow }) => {
    let calm = 0;
    // A box in a tab that is drawn for the first time takes its own value once more.
    const isFilled = () => {
      calm += 1;
      if (box && find(box).value !== text) {
        fill(box, text);
        calm = 0;
      }
      return calm > 5;
    };
    when(isFilled, () => {
      find(press).click();
      // On a phone the two answers stand between the stage line and the state machine.
      if (show) find(matchMedia("(max-width: 720px)").matches ? show_narrow : show).scrollIntoView();
    });
  };
  const shown = (selector) => find(selector) !== null && find(selector).offsetParent !== null;

  Object.assign(window.streamgauge, {
    // The values of a tab's components have changed; `first` are those that the page began with.
    keep: (tab, values, first) => {
      const now = parameters[tab](values), before = parameters[tab](first);
      const changed = Object.entries(now)
        .filter(([name, value]) => value && value !== before[name] && !window.streamgaugeHistory.isSecret(value));
      kept[tab] = Object.fromEntries(changed);
      if (tab === current) write();
    },
    enterTab: (name) => {
      if (name === current) return;
      current = name;
      if (isOpen) history.pushState(null, "", address());
    },
    // The service has set what is valid of an address.
    openAddress: ({ tab, settings }) => {
      kept[tab] = settings;
      isOpen = true;
      showTab(tab);
      write();
      const action = pending;
      pending = null;
      if (action) when(() => shown(action.press), () => act(action));
    },
  });
  addEventListener("popstate", () => {
    current = tabOf(location.search);
    showTab(current);
    write();
  });
  when(() => shown("#sg-tabs button[role=tab]"), () => showTab(current));

  // The cards of the first view: one sends a message, the others open an address of this page and press a button.
  let count = 0;
  document.addEventListener("click", ({ target }) => {
    const card = target.closest?.("#sg-chat .sg-cards button");
    if (!card) return;
    const actions = JSON.parse(find(".sg-card-actions").dataset.actions);
    const { send, follow, ...action } = actions[[...card.parentElement.children].indexOf(card)];
    if (send) {
      window.streamgauge.send(send);
      return;
    }
    pending = action;
    count += 1;
    // The number makes the address differ from that of an earlier press.
    fill("#sg-address textarea", `${follow}#${count}`);
  });
}
