// The `ws` package: two questions and a cancel on one socket, then a refusal that closes it.
import WebSocket from "ws";

const url = process.argv[2].replace(/^http/, "ws");
const question = { message: "Name three colours.", provider: "sim:steady", strategy: "direct" };

function connected(protocols = []) {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(`${url}/api/chat/ws`, protocols);
    socket.once("open", () => resolve(socket)).once("error", reject);
  });
}

function answer(socket, body, atChunk = () => {}) {
  return new Promise((resolve) => {
    const frames = [];
    const take = (data) => {
      const frame = JSON.parse(data);
      frames.push(frame);
      if (frame.type === "chunk") atChunk();
      if (["done", "error", "cancelled"].includes(frame.type)) {
        socket.off("message", take);
        resolve(frames);
      }
    };
    socket.on("message", take);
    socket.send(JSON.stringify(body));
  });
}

const text = (frames) => frames.filter((f) => f.type === "chunk").map((f) => f.content).join("");

const socket = await connected(["streamgauge"]);
const first = await answer(socket, { ...question, max_tokens: 8 });
const second = await answer(socket, { type: "message", ...question, max_tokens: 8 });
const stopped = await answer(socket, question, () => socket.send('{"type":"cancel"}'));
const closed = new Promise((resolve) => socket.once("close", (code, reason) => resolve([code, String(reason)])));
const refused = await answer(socket, { ...question, message: "" });

console.log(JSON.stringify({
  protocol: socket.protocol,
  texts: [text(first), text(second)],
  types: first.map((frame) => frame.type),
  finish: first.find((frame) => frame.type === "finish"),
  stopped: stopped.at(-1),
  refused: refused.at(-1),
  closed: await closed,
}));
