// Conversations as records: how the browser keeps them, and how they are written to files and read from them. All
// functions but those that name the storage are pure. No API key is ever passed to this script.
globalThis.streamgaugeHistory = (() => {
  const branches = globalThis.streamgaugeBranches;
  const SCHEMA = "streamgauge/conversations", VERSION = 1, PREFIX = "streamgauge-conversation-";
  const MAX_FILE_CHARS = 20_000_000, MAX_CONVERSATION_BYTES = 1_500_000, MAX_MESSAGES = 2000;
  const MAX_TITLE = 60, MAX_SUMMARY = 300, MAX_NAME = 200, MAX_TEXT_SETTING = 16_000;
  const NAMES = ["provider", "own", "model", "strategy"], SWITCHES = ["streamed", "timed_words"];
  const TEXTS = ["system", "temperature", "max_tokens", "budget", "price"];
  const THINKING = ["Thinking", "Thought"];
  const FOREIGN = "Not imported: this is no file of conversations from this page. Choose one that “Export all” or “Save as JSON” wrote.";
  const NEWER = "Not imported: a newer version of this page wrote this file.";
  const LARGE = "Not imported: the file is larger than 20 MB.";

  // A key that was written into a box for a name is kept nowhere; the service says what is wrong with it.
  const SECRET =
    /(?:sk|gsk|hf|xai|csk|pplx|nvapi|gh[pousr]|github_pat|glpat|npm|pypi|xox[abposr])[-_][\w-]{16,}|(?:AKIA|ASIA|AIza|eyJ)[\w-]{16,}/i;
  const isSecret = (name) => SECRET.test(name ?? "");

  // The pattern equals that of ui/markdown/escaping.py: code has no entities.
  const CODE =
    /^ {0,3}(`{3,}|~{3,})[^\n]*(?:\n(?:.*\n)*? {0,3}\1[`~]*[ \t]*$|(?:\n.*)*$(?![\s\S]))|(?<!`)(`+)(?!`)(?:[^\n]|\n(?!\n)){1,2000}?(?<!`)\2(?!`)|\\[^\w\s]|((?:(?:ftp|https?):\/\/|www\.)\S*)/gm;
  const replaceOutsideCode = (text, change) => {
    let end = 0, out = "";
    for (const found of text.matchAll(CODE)) {
      if (found[3]) continue;
      out += change(text.slice(end, found.index)) + found[0];
      end = found.index + found[0].length;
    }
    return out + change(text.slice(end));
  };
  const unescape = (text) => replaceOutsideCode(text, (prose) => prose.replace(/&(lt|amp);/g, (_, name) => (name === "lt" ? "<" : "&")));
  const escape = (text) => replaceOutsideCode(text, (prose) => prose.replace(/<|&(?=#?\w{1,32};)/g, (one) => (one === "<" ? "&lt;" : "&amp;")));
  const escapeHtml = (text) => text.replace(/[&<>"']/g, (one) => `&#${one.charCodeAt(0)};`);

  const newId = () =>
    [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
  // Half of an emoji cannot be sent to the service.
  const wellFormed = (text) => text.replace(/\p{Surrogate}/gu, "\uFFFD");
  const oneLine = (text, most) => {
    const letters = [...wellFormed(text.slice(0, 4 * most)).replace(/[\s\p{Cc}]+/gu, " ").trim()];
    return letters.length > most ? `${letters.slice(0, most - 1).join("").trimEnd()}…` : letters.join("");
  };
  const drawnText = ({ content }) =>
    [content].flat().map((part) => (typeof part === "string" ? part : part?.text ?? "")).join("");
  const textOf = (message) => unescape(drawnText(message));
  const titleOf = (messages) => {
    const question = messages.find(({ role }) => role === "user");
    return oneLine(question ? textOf(question) : "", MAX_TITLE) || "Conversation";
  };

  // Messages as the chat draws them, and as files have them: the text as it was written, without the chat's own marks.
  const toFileMessage = (message) => {
    const { role, metadata } = message, drawn = drawnText(message), { title, id, log } = metadata ?? {};
    if (id === "head") return { role, answered_by: log ?? "" };
    if (title == null) return { role, content: unescape(drawn) };
    if (!id && THINKING.includes(title)) return { role, thinking: unescape(drawn) };
    return { role, summary: title, details: unescape(drawn) };
  };
  const draw = (role, text, metadata = null) => ({ role, content: [{ type: "text", text }], metadata });
  const drawHead = (words) => {
    const log = oneLine(words, MAX_NAME), [model, strategy] = log.split(/ · (?=[^·]*$)/);
    const text = `<h2 class="sg-who">${escapeHtml(model)} <small>${escapeHtml(strategy ?? "")}</small></h2>`;
    return draw("assistant", text, { id: "head", log });
  };
  const fromFileMessage = (message) => {
    if (!isObject(message)) throw new TypeError("a message is an object");
    const { role, content, thinking, summary, details, answered_by } = message;
    const text = (value) => {
      if (typeof value !== "string") throw new TypeError("a text is a string");
      return escape(wellFormed(value));
    };
    if (role === "user") return draw("user", text(content));
    if (role !== "assistant") throw new TypeError("a message is of the user or of the assistant");
    if (typeof answered_by === "string") return drawHead(answered_by);
    if (thinking !== undefined) return draw("assistant", text(thinking), { title: THINKING[1], status: "done" });
    if (typeof summary === "string") {
      return draw("assistant", text(details ?? ""), { title: escape(oneLine(summary, MAX_SUMMARY)), status: "done" });
    }
    return draw("assistant", text(content));
  };
  const readSettings = (found) => {
    const settings = {};
    if (!isObject(found)) return settings;
    const take = (names, isValid) => {
      for (const name of names) if (Object.hasOwn(found, name) && isValid(found[name])) settings[name] = found[name];
    };
    const isText = (most) => (value) => typeof value === "string" && value.length <= most && wellFormed(value) === value;
    take(NAMES, isText(MAX_NAME));
    take(TEXTS, isText(MAX_TEXT_SETTING));
    take(SWITCHES, (value) => typeof value === "boolean");
    return settings;
  };
  const readConversation = (found, number) => {
    try {
      const { messages, title, updated_at } = found;
      if (!Array.isArray(messages) || messages.length === 0) throw new TypeError("a conversation has messages");
      if (messages.length > MAX_MESSAGES) throw new RangeError("too many messages");
      const read = found.branches === undefined
        ? { messages: messages.map(fromFileMessage) }
        : branches.fromFile(found.branches, fromFileMessage, newId);
      const { messages: drawn, tree } = read;
      if (drawn.length === 0) throw new TypeError("a conversation has messages");
      if (new TextEncoder().encode(JSON.stringify(read)).length > MAX_CONVERSATION_BYTES) throw new RangeError("too long");
      const named = typeof title === "string" ? oneLine(title, MAX_TITLE) : "";
      const time = typeof updated_at === "string" ? Date.parse(updated_at) : NaN;
      const updated = Number.isFinite(time) ? Math.min(time, Date.now()) : Date.now();
      return { title: named || titleOf(drawn), updated, settings: readSettings(found.settings), messages: drawn, tree };
    } catch (error) {
      const what = error instanceof RangeError ? "is too long for this page" : "is damaged";
      throw new Error(`Not imported: conversation ${number} of this file ${what}.`);
    }
  };

  // The conversations of a file, without ids. Throws an Error whose message is a sentence for the user.
  const readFile = (text) => {
    if (text.length > MAX_FILE_CHARS) throw new Error(LARGE);
    let file = null;
    try {
      file = JSON.parse(text);
    } catch { /* it is reported below */ }
    if (!isObject(file) || file.schema !== SCHEMA || !Array.isArray(file.conversations)) throw new Error(FOREIGN);
    if (file.version !== VERSION) throw new Error(file.version > VERSION ? NEWER : FOREIGN);
    return file.conversations.map((found, index) => readConversation(found, index + 1));
  };
  // An id is left out of a file: whoever knows it can stop the answer.
  const toFile = (records, exportedAt) => {
    const conversations = records.map(({ title, updated, settings, messages, tree }) => {
      const updated_at = new Date(updated).toISOString(), isBranched = tree !== undefined && tree.paths.length > 1;
      const others = isBranched ? { branches: branches.toFile(tree, messages, toFileMessage) } : {};
      return { title, updated_at, settings: settings ?? {}, messages: messages.map(toFileMessage), ...others };
    });
    return JSON.stringify({ schema: SCHEMA, version: VERSION, exported_at: exportedAt, conversations }, null, 2);
  };
  // The storage: one key for each conversation, so that two tabs write each other's only where they show the same one.
  const readRecord = (text) => {
    try {
      const found = JSON.parse(text);
      const isRecord = /^[0-9a-f]{32}$/.test(found?.id) && Array.isArray(found.messages) && typeof found.title === "string";
      return found.version === VERSION && isRecord ? found : null;
    } catch {
      return null;
    }
  };
  const attempt = (act, otherwise) => {
    try {
      return act();
    } catch {
      return otherwise;
    }
  };
  const list = () => attempt(() => {
    const keys = Object.keys(localStorage).filter((key) => key.startsWith(PREFIX));
    const records = keys.map((key) => readRecord(localStorage.getItem(key))).filter(Boolean);
    return records.sort((a, b) => b.updated - a.updated);
  }, []);
  const get = (id) => attempt(() => readRecord(localStorage.getItem(PREFIX + id)), null);
  // Whether the storage has taken the record.
  const put = (record) => attempt(() => {
    localStorage.setItem(PREFIX + record.id, JSON.stringify({ version: VERSION, ...record }));
    return true;
  }, false);
  const remove = (id) => attempt(() => localStorage.removeItem(PREFIX + id));
  // The ids by which the service knows the answers of a conversation.
  const answerIds = ({ id, tree }) => tree?.paths.map(({ answer }) => answer) ?? [id];

  return { MAX_FILE_CHARS, LARGE, PREFIX, isSecret, escape, unescape, oneLine, textOf, titleOf, answerIds, readFile, toFile, newId, list, get, put, remove };
})();
