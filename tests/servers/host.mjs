// A host written with the TypeScript SDK: `node host.mjs COMMAND ARGUMENTS...`. It uses all of server-everything and
// prints what it got; then it prints BETWEEN, waits for a line on stdin, and does it again. It ends with its stdin.
import { once } from "node:events";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
import * as types from "@modelcontextprotocol/sdk/types.js";

const print = (what, value) => console.log(what, JSON.stringify(value));
const [command, ...args] = process.argv.slice(2);
const capabilities = { sampling: {}, elicitation: { form: {} }, roots: { listChanged: true } };
const client = new Client({ name: "typescript", version: "1" }, { capabilities });
const waiting = {};
const notified = (kind) => new Promise((resolve) => { waiting[kind] = resolve; });
const content = { type: "text", text: "sampled" };
client.setRequestHandler(types.CreateMessageRequestSchema, async () => ({ model: "m", role: "assistant", content }));
client.setRequestHandler(types.ElicitRequestSchema, async () => ({ action: "accept", content: { name: "Ada" } }));
client.setRequestHandler(types.ListRootsRequestSchema, async () => ({ roots: [{ uri: "file:///tmp", name: "tmp" }] }));
client.setNotificationHandler(types.LoggingMessageNotificationSchema, (n) => {
  if (n.params.data.endsWith?.("essage")) waiting.log?.("a message");  // one of the simulated ones, level by chance
});
client.setNotificationHandler(types.ResourceUpdatedNotificationSchema, (n) => waiting.updated?.(n.params));

async function round() {
  const { tools } = await client.listTools();
  print("tools", tools);
  const { resources } = await client.listResources();
  print("resources", resources);
  print("templates", await client.listResourceTemplates());
  print("prompts", await client.listPrompts());
  const call = async (name, parameters = {}, options = undefined) =>
    print(name, await client.callTool({ name, arguments: parameters }, undefined, options));
  await call("echo", { message: "hi" });
  await call("get-structured-content", { location: "New York" });
  await call("get-tiny-image");
  const progress = [];
  const options = { onprogress: (p) => progress.push(p.progress) };
  await call("trigger-long-running-operation", { duration: 0.4, steps: 4 }, options);
  print("progress", progress.slice(0, 3));  // the server sends the last one after its answer
  await call("trigger-sampling-request", { prompt: "x", maxTokens: 10 });
  await call("trigger-elicitation-request");
  await call("get-roots-list");
  await client.setLoggingLevel("debug");
  const log = notified("log");
  await call("toggle-simulated-logging");
  print("log", await log);
  await client.subscribeResource({ uri: resources[0].uri });
  const updated = notified("updated");
  await call("toggle-subscriber-updates");
  print("updated", await updated);
  await client.unsubscribeResource({ uri: resources[0].uri });
  const argument = { name: "department", value: "E" };
  print("completion", await client.complete({ ref: { type: "ref/prompt", name: "completable-prompt" }, argument }));
  print("prompt", await client.getPrompt({ name: "simple-prompt" }));
  print("read", await client.readResource({ uri: resources[0].uri }));
  await call("no-such-tool");
  await client.readResource({ uri: "demo://no-such-thing" }).catch((e) => print("error", [e.code, e.message, e.data]));
  const cancel = new AbortController();
  const cancelled = { signal: cancel.signal, onprogress: () => cancel.abort("enough") };
  await call("trigger-long-running-operation", { duration: 8, steps: 20 }, cancelled).catch((e) => print("cancelled", e.code));
  print("ping", await client.ping());
}

await client.connect(new StdioClientTransport({ command, args, env: process.env, cwd: process.cwd() }));
print("server", [client.getServerVersion(), client.getServerCapabilities(), client.getInstructions()]);
await round();
console.log("BETWEEN");
const again = await Promise.race([once(process.stdin, "data"), once(process.stdin, "end").then(() => null)]);
if (again) await round();
await client.close();
process.exit();
