// The EventSource of npm on a kept stream, through an address that cuts its connections: it comes back by itself.
import { EventSource } from "eventsource";

const [, , url, streamId] = process.argv;
const source = new EventSource(`${url}/api/chat/stream/${streamId}`);
let text = "", opened = 0, finish = null;
const ids = [];

function keep(event) {
  if (event.lastEventId) ids.push(event.lastEventId);
}

source.onopen = () => { opened += 1; };
for (const name of ["start", "stage", "usage"]) source.addEventListener(name, keep);
source.addEventListener("finish", (event) => { keep(event); finish = JSON.parse(event.data); });
source.onmessage = (event) => {
  keep(event);
  if (event.data !== "[DONE]") {
    text += JSON.parse(event.data).content;
    return;
  }
  source.close();
  console.log(JSON.stringify({ text, opened, finish, ids }));
};
