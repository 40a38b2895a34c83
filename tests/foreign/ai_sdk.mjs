// Vercel's AI SDK with its adapter for OpenAI-compatible services: text, thinking, usage, an error.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { streamText } from "ai";

const service = createOpenAICompatible({ name: "streamgauge", baseURL: `${process.argv[2]}/v1`, includeUsage: true });

async function ask(model, more = {}) {
  const errors = [];
  const asked = streamText({
    model: service(model), prompt: "Name three colours.", maxRetries: 0,
    onError: ({ error }) => errors.push({ message: error.message, status: error.statusCode ?? null }), ...more,
  });
  let text = "", thinking = "", end = null;
  for await (const part of asked.fullStream) {
    if (part.type === "text-delta") text += part.text;
    if (part.type === "reasoning-delta") thinking += part.text;
    if (part.type === "finish") end = part;
  }
  return { text, thinking, finish: end?.finishReason ?? null, usage: end?.totalUsage ?? null, errors };
}

console.log(JSON.stringify({
  steady: await ask("sim:steady", { maxOutputTokens: 8 }),
  thinking: await ask("sim:thinking", { maxOutputTokens: 8 }),
  refused: await ask("nobody:at-all"),
  broken: await ask("sim:cut"),
}));
