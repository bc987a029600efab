// Measures ts-mls: a creator and one other member, of as many as setup says.
// Requests and answers are those of main.go.
import { createInterface } from "node:readline";
import { readFileSync } from "node:fs";
import * as mls from "ts-mls";

const suite = await mls.getCiphersuiteImpl(mls.getCiphersuiteFromName("MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519"));
const version = "mls10";
const textSize = 1000; // bytes of a message
const groupsHeld = 3; // by which resident memory is told

let creator, other, packages, a, b, welcome, commit;
let messages = [];

const encode = (wireformat, content) => mls.encodeMlsMessage({ version, wireformat, ...content });

function parse(data) {
  const decoded = mls.decodeMlsMessage(data, 0);
  if (decoded === undefined) throw new Error("ts-mls can't parse the message");
  return decoded[0];
}

function newClient(name) {
  const credential = { credentialType: "basic", identity: new TextEncoder().encode(name) };
  return mls.generateKeyPackage(credential, mls.defaultCapabilities(), mls.defaultLifetime, [], suite);
}

async function commits(extraProposals) {
  const made = await mls.createCommit(
    { state: a, cipherSuite: suite },
    { wireAsPublicMessage: true, ratchetTreeExtension: true, extraProposals },
  );
  a = made.newState;
  commit = mls.encodeMlsMessage(made.commit);
  return made.welcome;
}

const join = () =>
  mls.joinGroup(parse(welcome).welcome, other.publicPackage, other.privatePackage, mls.emptyPskIndex, suite);

const steps = {
  async setup(n) {
    creator = await newClient("creator");
    const clients = [];
    for (let i = 1; i < n; i++) clients.push(await newClient(`member ${i}`));
    other = clients[0];
    packages = clients.map((c) => encode("mls_key_package", { keyPackage: c.publicPackage }));
    a = b = undefined;
    messages = [];
  },

  // create makes a group and adds all others in one commit.
  async create() {
    const id = new TextEncoder().encode("bench");
    a = await mls.createGroup(id, creator.publicPackage, creator.privatePackage, [], suite);
    const adds = packages.map((p) => ({ proposalType: "add", add: { keyPackage: parse(p).keyPackage } }));
    welcome = encode("mls_welcome", { welcome: await commits(adds) });
  },

  async join() {
    b = await join();
  },

  async commit() {
    await commits([]);
  },

  async process() {
    b = (await mls.processPublicMessage(b, parse(commit).publicMessage, mls.emptyPskIndex, suite)).newState;
  },

  async encrypt(n) {
    messages = [];
    for (let i = 0; i < n; i++) {
      const { newState, privateMessage } = await mls.createApplicationMessage(a, new Uint8Array(textSize), suite);
      a = newState;
      messages.push(encode("mls_private_message", { privateMessage }));
    }
  },

  async decrypt() {
    for (const m of messages) {
      const { newState, message } = await mls.processPrivateMessage(b, parse(m).privateMessage, mls.emptyPskIndex, suite);
      b = newState;
      if (message.length !== textSize) throw new Error(`a message of ${message.length} bytes`);
    }
  },
};

// heap is what is in use, buffers outside of the heap included.
function heap() {
  globalThis.gc();
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}

// resident tells what a group holds by joining a few times.
async function resident() {
  const held = [];
  const before = heap();
  for (let i = 0; i < groupsHeld; i++) held.push(await join());
  const after = heap();
  return { resident: Math.max(0, Math.round((after - before) / held.length)) };
}

async function measure(op, n) {
  const count = op === "encrypt" ? n : op === "decrypt" ? messages.length : 1;
  globalThis.gc();
  const start = process.hrtime.bigint();
  await steps[op](n);
  return { seconds: Number(process.hrtime.bigint() - start) / 1e9 / count };
}

async function answer({ op, n }) {
  if (op === "name") return { name: "ts-mls " + JSON.parse(readFileSync(new URL("node_modules/ts-mls/package.json", import.meta.url))).version };
  if (op === "resident") return resident();
  if (op === "setup") return (await steps.setup(n), {});
  return measure(op, n);
}

for await (const line of createInterface({ input: process.stdin })) {
  let reply;
  try {
    reply = await answer(JSON.parse(line));
  } catch (e) {
    reply = { error: String(e) };
  }
  process.stdout.write(JSON.stringify(reply) + "\n");
}
