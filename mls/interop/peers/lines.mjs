// Serves requests on stdin, one JSON object a line, and answers each on stdout
// with {"ok": result} or {"error": text}. A request names the operation in op,
// and the client that shall do it in client; bytes are in base64.
import { createInterface } from "node:readline";

export const bytes = (text) => new Uint8Array(Buffer.from(text, "base64"));
export const text = (data) => (data === undefined ? undefined : Buffer.from(data).toString("base64"));

export async function serve(newClient) {
  const clients = new Map();
  for await (const line of createInterface({ input: process.stdin })) {
    const request = JSON.parse(line);
    let answer;
    try {
      if (request.op === "new") clients.set(request.client, await newClient(request));
      const client = clients.get(request.client);
      answer = { ok: request.op === "new" ? {} : ((await client[request.op](request)) ?? {}) };
    } catch (e) {
      answer = { error: describe(e) };
    }
    process.stdout.write(JSON.stringify(answer) + "\n");
  }
}

// describe follows an error to its cause: core-crypto nests them in inner.
function describe(e) {
  const parts = [];
  for (const seen = new Set(); e && typeof e === "object" && !seen.has(e); ) {
    seen.add(e);
    if (e.message) parts.push(String(e.message));
    const inner = e.inner ?? e.cause;
    e = inner && typeof inner === "object" && !(inner instanceof Error)
      ? (Object.values(inner).find((v) => v instanceof Error) ?? { message: JSON.stringify(inner) })
      : inner;
  }
  return parts.join(": ") || String(e);
}
