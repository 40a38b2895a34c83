// Under each question of the chat: its versions, and the button that edits it. The edited text is in the message box, and
// sending it begins another branch of the conversation.
() => {
  const conversation = window.streamgaugeConversation, { setProperty } = window.streamgauge;
  const box = () => document.querySelector("#sg-message textarea"), bar = document.querySelector("#sg-editing p");
  const ICONS = { edit: "M4 20l4-1L19 8l-3-3L5 16zM14 7l3 3", earlier: "M15 5l-7 7 7 7", later: "M9 5l7 7-7 7" };
  const LABELS = { edit: "Edit message", earlier: "Earlier version", later: "Later version" };

  const makeButton = (act) => {
    const button = Object.assign(document.createElement("button"), { type: "button", title: LABELS[act] });
    button.dataset.version = act;
    button.setAttribute("aria-label", LABELS[act]);
    button.innerHTML = `<svg viewBox="0 0 24 24" aria-hidden="true"><path d="${ICONS[act]}"/></svg>`;
    return button;
  };
  const makeControls = () => {
    const controls = document.createElement("span");
    controls.className = "sg-versions";
    controls.append(makeButton("earlier"), document.createElement("span"), makeButton("later"), makeButton("edit"));
    return controls;
  };
  const draw = () => {
    const versions = conversation.versions();
    document.querySelectorAll("#sg-chat .user-row + .message-buttons").forEach((place, at) => {
      const controls = place.querySelector(".sg-versions") ?? makeControls();
      if (controls.parentElement !== place) place.prepend(controls);
      const { number, count } = versions[at] ?? { number: 1, count: 1 }, words = count > 1 ? `${number}/${count}` : "";
      const [earlier, text, later] = controls.children;
      setProperty(text, "textContent", words);
      for (const button of [earlier, later]) setProperty(button, "hidden", count === 1);
      setProperty(earlier, "disabled", number === 1);
      setProperty(later, "disabled", number === count);
      setProperty(controls.dataset, "at", String(at));
    });
    setProperty(bar, "hidden", !conversation.editing);
  };
  window.streamgauge.afterMend.push(draw);
  draw();

  const fill = (text) => {
    box().value = text;
    box().dispatchEvent(new Event("input", { bubbles: true }));
    draw();
    box().focus();
  };
  const acts = {
    edit: (at) => fill(conversation.edit(at, box().value)),
    earlier: (at) => conversation.showVersion(at, -1),
    later: (at) => conversation.showVersion(at, 1),
  };
  document.querySelector("#sg-chat").addEventListener("click", ({ target }) => {
    const button = target.closest("button[data-version]");
    if (button) acts[button.dataset.version](Number(button.parentElement.dataset.at));
  });
  bar.querySelector("button").addEventListener("click", () => fill(conversation.endEdit()));

  // The first message after Edit waits until its branch is shown. An empty one is left to the form's own check.
  const isAnswering = () => document.querySelector("#sg-message button.stop-button")?.offsetParent;
  const sendEdited = async (event) => {
    const { editing } = conversation, text = box().value;
    if (!editing || editing.isForked || !text.trim() || isAnswering()) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    await conversation.fork();
    window.streamgauge.send(text);
  };
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing && event.target === box()) sendEdited(event);
  }, { capture: true });
  document.addEventListener("click", (event) => {
    if (event.target.closest("#sg-message button.submit-button")) sendEdited(event);
  }, { capture: true });
}
