// The branches of a conversation: asking an edited question again begins another branch, and the earlier one stays. A turn
// is a question with its answer, and has a number; a branch is a path of turns. The turns of the shown branch are in the
// messages of the conversation, those of no other place in `turns`. All functions are pure.
globalThis.streamgaugeBranches = (() => {
  const toTurns = (messages) => {
    const turns = [];
    for (const message of messages) {
      if (message.role === "user" || turns.length === 0) turns.push([]);
      turns.at(-1).push(message);
    }
    return turns;
  };
  const countTo = (count, first = 0) => Array.from({ length: count }, (_, index) => first + index);
  const isBeginning = (path, other) => path.every((turn, index) => other[index] === turn);

  // `answer` is the id by which the service knows the newest answer of a branch.
  const begin = (answer, messages) => {
    const { length } = toTurns(messages);
    return { next: length, shown: 0, paths: [{ answer, turns: countTo(length), seen: 0 }], turns: {} };
  };
  // The shown branch has got these messages.
  const follow = (tree, messages) => {
    const { length } = toTurns(messages), before = tree.paths[tree.shown].turns;
    if (length === before.length) return tree;
    const added = Math.max(0, length - before.length);
    const turns = [...before.slice(0, length), ...countTo(added, tree.next)];
    const paths = tree.paths.map((path, index) => (index === tree.shown ? { ...path, turns } : path));
    return { ...tree, next: tree.next + added, paths };
  };
  // A branch that is the beginning of another one has nothing of its own.
  const isCovered = (paths, index) => paths.some(({ turns }, other) =>
    other !== index && isBeginning(paths[index].turns, turns) && (turns.length > paths[index].turns.length || other < index));
  const show = (tree, messages, index) => {
    const all = { ...tree.turns }, from = tree.paths[tree.shown].turns, to = tree.paths[index].turns;
    toTurns(messages).forEach((turn, place) => { all[from[place]] = turn; });
    const seen = Math.max(...tree.paths.map((path) => path.seen)) + 1;
    const shown = { ...tree.paths[index], seen };
    const renewed = tree.paths.map((path, place) => (place === index ? shown : path));
    const paths = renewed.filter((_, place) => place === index || !isCovered(renewed, place));
    const kept = new Set(paths.flatMap((path) => path.turns).filter((turn) => !to.includes(turn)));
    const turns = Object.fromEntries(Object.entries(all).filter(([turn]) => kept.has(Number(turn))));
    return { tree: { ...tree, shown: paths.indexOf(shown), paths, turns }, messages: to.flatMap((turn) => all[turn]) };
  };
  // Begin a branch in place of question number `at`, from 0, and show it.
  const fork = (tree, messages, at, answer) => {
    const turns = tree.paths[tree.shown].turns.slice(0, at);
    const paths = [...tree.paths, { answer, turns, seen: 0 }];
    return show({ ...tree, paths }, messages, paths.length - 1);
  };

  // The turns that stand in each question's place after the same questions, the oldest first.
  const versionsAt = (tree, at) => {
    const { turns } = tree.paths[tree.shown], before = turns.slice(0, at);
    const others = tree.paths.filter((path) => path.turns.length > at && isBeginning(before, path.turns));
    return [...new Set(others.map((path) => path.turns[at]))].sort((a, b) => a - b);
  };
  const versions = (tree) => tree.paths[tree.shown].turns.map((turn, at) => {
    const all = versionsAt(tree, at);
    return { number: all.indexOf(turn) + 1, count: all.length };
  });
  // The branch with another version of a question that was shown last; -1 if there is no such version.
  const findBranch = (tree, at, step) => {
    const all = versionsAt(tree, at), { turns } = tree.paths[tree.shown];
    const wanted = [...turns.slice(0, at), all[all.indexOf(turns[at]) + step]];
    const fits = (path) => isBeginning(wanted, path.turns);
    const newest = Math.max(...tree.paths.filter(fits).map((path) => path.seen));
    return tree.paths.findIndex((path) => fits(path) && path.seen === newest);
  };

  // Every branch of a file gets an id of its own.
  const renew = (tree, newId) => ({ ...tree, paths: tree.paths.map((path) => ({ ...path, answer: newId() })) });
  const toFile = (tree, messages, write) => {
    const all = { ...tree.turns }, { turns } = tree.paths[tree.shown];
    toTurns(messages).forEach((turn, place) => { all[turns[place]] = turn; });
    const numbers = Object.keys(all).map(Number).sort((a, b) => a - b), places = new Map(numbers.map((turn, place) => [turn, place]));
    return {
      turns: numbers.map((turn) => all[turn].map(write)),
      paths: tree.paths.map((path) => path.turns.map((turn) => places.get(turn))),
      shown: tree.shown,
    };
  };
  // The tree and the shown messages of a file. Throws a TypeError if it is damaged.
  const fromFile = (found, read, newId) => {
    const check = (isValid) => { if (!isValid) throw new TypeError("the branches are damaged"); };
    check(Array.isArray(found?.turns) && Array.isArray(found.paths) && found.paths.length > 0);
    const all = found.turns.map((turn) => {
      check(Array.isArray(turn) && turn.length > 0);
      const messages = turn.map(read);
      check(messages[0].role === "user" && messages.slice(1).every(({ role }) => role !== "user"));
      return messages;
    });
    const paths = found.paths.map((turns) => {
      check(Array.isArray(turns) && new Set(turns).size === turns.length);
      check(turns.every((turn) => Number.isInteger(turn) && turn >= 0 && turn < all.length));
      return { answer: newId(), turns, seen: 0 };
    });
    check(Number.isInteger(found.shown) && found.shown >= 0 && found.shown < paths.length);
    const shown = paths[found.shown].turns;
    const turns = Object.fromEntries([...all.entries()].filter(([turn]) => !shown.includes(turn)));
    return { tree: { next: all.length, shown: found.shown, paths, turns }, messages: shown.flatMap((turn) => all[turn]) };
  };

  return { begin, follow, show, fork, versions, findBranch, renew, toFile, fromFile };
})();
