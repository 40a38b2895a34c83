// The official SDK: streamed with usage, whole, the list of models, and an error read as a class of the SDK's own.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: "any", maxRetries: 0 });
const question = { model: "sim:steady", messages: [{ role: "user", content: "Name three colours." }], max_tokens: 8 };

let streamed = "", finish = null, usage = null;
for await (const chunk of await client.chat.completions.create({
  ...question, stream: true, stream_options: { include_usage: true },
})) {
  streamed += chunk.choices[0]?.delta.content ?? "";
  finish = chunk.choices[0]?.finish_reason ?? finish;
  usage = chunk.usage ?? usage;
}

const whole = await client.chat.completions.create(question);
const models = [];
for await (const model of client.models.list()) models.push(model.id);

const refused = await client.chat.completions
  .create({ ...question, temperature: 9, stream: true })
  .then(() => null, (error) => ({
    name: error.constructor.name, status: error.status, type: error.type, code: error.code, message: error.message,
  }));

console.log(JSON.stringify({
  streamed, finish, usage, models, refused,
  whole: whole.choices[0].message.content, whole_finish: whole.choices[0].finish_reason, whole_usage: whole.usage,
}));
