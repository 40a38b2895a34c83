// Answers each line of standard input, a call of a function of the page's history script, by a line of JSON.
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";

for (const path of process.argv.slice(2)) (0, eval)(readFileSync(path, "utf8"));
const { readFile, toFile, titleOf, escape, unescape } = globalThis.streamgaugeHistory;
const functions = { ...globalThis.streamgaugeBranches, readFile, toFile, titleOf, escape, unescape };
for await (const line of createInterface({ input: process.stdin })) {
  const [name, ...values] = JSON.parse(line);
  let answer;
  try {
    answer = { value: functions[name](...values) };
  } catch (error) {
    answer = { error: error.message, kind: error.constructor.name };
  }
  process.stdout.write(JSON.stringify(answer) + "\n");
}
