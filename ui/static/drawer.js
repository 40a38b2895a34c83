// The drawer with the conversations that this browser keeps: open, rename, delete with undo, export and import.
() => {
  const history = window.streamgaugeHistory, conversation = window.streamgaugeConversation;
  const drawer = document.querySelector("#sg-history");
  const find = (selector) => drawer.querySelector(selector);
  const rows = find("ul"), note = find('[role="status"]'), undo = find('[data-history="undo"]'), chooser = find("input[type=file]");
  const ICONS = { rename: "M4 20l4-1L19 8l-3-3L5 16zM14 7l3 3", delete: "M5 7h14M9 7V5h6v2M7 7l1 13h8l1-13" };
  let deleted = [];

  const make = (name, properties, ...children) => {
    const element = Object.assign(document.createElement(name), properties);
    element.append(...children);
    return element;
  };
  const makeButton = (act, label) => {
    const button = make("button", { type: "button", title: label });
    button.dataset.history = act;
    button.setAttribute("aria-label", label);
    button.innerHTML = `<svg viewBox="0 0 24 24" aria-hidden="true"><path d="${ICONS[act]}"/></svg>`;
    return button;
  };
  const formatTime = (updated) => {
    const time = new Date(updated), isToday = time.toDateString() === new Date().toDateString();
    return time.toLocaleString("en", isToday ? { timeStyle: "short" } : { dateStyle: "medium" });
  };
  const makeRow = ({ id, title, updated }) => {
    const open = make("button", { type: "button" }, make("span", { textContent: title, dir: "auto" }), make("small", { textContent: formatTime(updated) }));
    open.dataset.history = "choose";
    if (id === conversation.id) open.setAttribute("aria-current", "true");
    const row = make("li", {}, open, makeButton("rename", `Rename “${title}”`), makeButton("delete", `Delete “${title}”`));
    row.dataset.id = id;
    return row;
  };
  const draw = () => {
    const records = history.list();
    rows.replaceChildren(...records.map(makeRow));
    drawer.toggleAttribute("data-empty", records.length === 0);
    for (const act of ["export", "delete-all"]) find(`[data-history="${act}"]`).disabled = records.length === 0;
  };
  const say = (text, canUndo = false) => {
    note.textContent = text;
    undo.hidden = !canUndo;
  };
  const focusRow = (index, act = "choose") => {
    const all = rows.children, row = all[Math.min(index, all.length - 1)];
    (row?.querySelector(`[data-history="${act}"]`) ?? find('[data-history="new"]')).focus();
  };

  const rename = (row) => {
    const record = history.get(row.dataset.id);
    if (record === null) {
      draw();
      return;
    }
    const box = make("input", { value: record.title, maxLength: 60, dir: "auto" });
    box.setAttribute("aria-label", "Title of the conversation");
    let ended = false;
    const end = (isKept) => {
      if (ended) return;
      ended = true;
      const title = history.oneLine(box.value, 60), found = history.get(record.id);
      if (isKept && title && found && !history.put({ ...found, title })) say("This browser has no room for the new title.");
      draw();
    };
    box.addEventListener("keydown", (event) => {
      if (!["Enter", "Escape"].includes(event.key)) return;
      event.preventDefault();
      event.stopPropagation();
      end(event.key === "Enter");
      focusRow([...rows.children].findIndex(({ dataset }) => dataset.id === record.id), "rename");
    });
    box.addEventListener("blur", () => end(true));
    row.replaceChildren(box);
    box.select();
  };
  // The service stops the answers of deleted conversations.
  const tellDeleted = (ids) => {
    const box = document.querySelector("#sg-deleted textarea");
    box.value = ids.join(" ");
    box.dispatchEvent(new Event("input", { bubbles: true }));
  };
  const remove = (ids) => {
    const current = ids.includes(conversation.id);
    if (current) {
      conversation.drop();
      conversation.open(null);
    }
    deleted = ids.map(history.get).filter(Boolean);
    const answers = ids.flatMap((id) => history.answerIds(history.get(id) ?? { id }));
    for (const id of ids) history.remove(id);
    tellDeleted(answers);
    draw();
    say(deleted.length === 1 ? `“${deleted[0].title}” is deleted.` : `${deleted.length} conversations are deleted.`, true);
  };
  const exportAll = () => {
    conversation.write();
    const now = new Date().toISOString();
    window.streamgauge.save(`streamgauge-conversations-${now.slice(0, 10)}.json`, history.toFile(history.list(), now));
  };
  const importFile = async (file) => {
    try {
      if (file.size > history.MAX_FILE_CHARS) throw new Error(history.LARGE);
      const found = history.readFile(await file.text());
      conversation.write();
      const content = ({ title, messages, tree }) => {
        const [written] = JSON.parse(history.toFile([{ title, messages, tree, updated: 0 }], "")).conversations;
        return JSON.stringify([written.messages, written.branches]);
      };
      const known = new Set(history.list().map(content));
      const added = found.filter((record) => !known.has(content(record)));
      const kept = [];
      for (const record of added) {
        const id = history.newId();
        if (!history.put({ id, ...record })) {
          kept.forEach(history.remove);
          throw new Error("Not imported: this browser has no room for these conversations. Delete some, or export them first.");
        }
        kept.push(id);
      }
      const there = found.length - added.length;
      say(`${added.length} imported${there ? `, ${there} already here` : ""}.`);
    } catch ({ message }) {
      say(message);
    }
    draw();
  };

  const acts = {
    open: () => {
      conversation.write();
      say("");
      draw();
      drawer.showModal();
    },
    close: () => drawer.close(),
    new: () => {
      conversation.open(null);
      drawer.close();
      if (!matchMedia("(pointer: coarse)").matches) document.querySelector("#sg-message textarea").focus();
    },
    choose: (row) => {
      if (row.dataset.id !== conversation.id) conversation.open(row.dataset.id);
      drawer.close();
    },
    rename,
    delete: (row) => {
      const index = [...rows.children].indexOf(row);
      remove([row.dataset.id]);
      focusRow(index, "delete");
    },
    "delete-all": () => {
      remove(history.list().map(({ id }) => id));
      undo.focus();
    },
    undo: () => {
      const back = deleted.filter((record) => history.put(record));
      say(back.length === deleted.length ? "" : `${deleted.length - back.length} could not be brought back: this browser has no room.`);
      deleted = [];
      draw();
      focusRow(0);
    },
    export: exportAll,
    import: () => chooser.click(),
  };
  document.querySelector("#sg-history-bar").addEventListener("click", ({ target }) => {
    const button = target.closest("button[data-history]");
    if (button) acts[button.dataset.history](button.closest("li"));
    else if (target === drawer) drawer.close();  // a click beside it
  });
  // Escape closes the drawer, and stops no answer.
  drawer.addEventListener("keydown", (event) => { if (event.key === "Escape") event.stopPropagation(); });
  chooser.addEventListener("change", () => {
    if (chooser.files.length) importFile(chooser.files[0]);
    chooser.value = "";
  });
  addEventListener("storage", ({ key }) => {
    if (drawer.open && (key === null || key.startsWith(history.PREFIX)) && !rows.querySelector("input")) draw();
  });
}
