// Clients of ts-mls.
import * as mls from "ts-mls";
import { encode } from "ts-mls/codec/tlsEncoder.js";
import { decodeVarLenData, varLenDataEncoder } from "ts-mls/codec/variableLength.js";
import { createGroupInfo } from "ts-mls/createCommit.js";
import { encodeRatchetTree, decodeRatchetTree } from "ts-mls/ratchetTree.js";
import { p256, p384, p521 } from "@noble/curves/nist.js";
import { bytes, serve, text } from "./lines.mjs";

const curves = { P256: p256, P384: p384, P521: p521 };
// Values that nobody knows (RFC 9420 §13.5), in the forms that ts-mls wants.
const grease = { suite: "2570", extension: 0x1a1a, proposal: 0x2a2a, credential: "14906" };
const version = "mls10";

class Client {
  psks = {};

  // With asIs, ts-mls is left as it is; otherwise what it does against RFC 9420
  // is put right (doc.go says what).
  constructor(suite, identity, asIs) {
    Object.assign(this, { suite, asIs, credential: { credentialType: "basic", identity } });
  }

  // RFC 9420 §5.1.1: an ECDSA public key is an uncompressed point.
  async signatureKeys() {
    const keys = await this.suite.signature.keygen();
    const curve = curves[mls.getCiphersuiteFromName(this.suite.name).signature];
    if (curve && !this.asIs) keys.publicKey = curve.getPublicKey(keys.signKey, false);
    return keys;
  }

  async newKeyPackage() {
    this.keys ??= await this.signatureKeys();
    const capabilities = {
      versions: [version],
      ciphersuites: [...Object.keys(mls.ciphersuites), grease.suite],
      extensions: [grease.extension],
      proposals: [grease.proposal],
      credentials: ["basic", "x509", grease.credential],
    };
    const unknown = [{ extensionType: grease.extension, extensionData: new Uint8Array([1, 2, 3]) }];
    const now = BigInt(Math.floor(Date.now() / 1000));
    const lifetime = { notBefore: now - 3600n, notAfter: now + 86400n };
    return mls.generateKeyPackageWithKey(this.credential, capabilities, lifetime, unknown, this.keys, this.suite, unknown);
  }

  async keyPackage() {
    this.pending = await this.newKeyPackage();
    return { message: message("mls_key_package", { keyPackage: this.pending.publicPackage }) };
  }

  async create({ group }) {
    const own = await this.newKeyPackage();
    this.state = await mls.createGroup(bytes(group), own.publicPackage, own.privatePackage, [], this.suite);
  }

  async join({ message: data, tree }) {
    const { welcome } = parse(data);
    const { publicPackage, privatePackage } = this.pending;
    this.state = await mls.joinGroup(welcome, publicPackage, privatePackage, mls.makePskIndex(undefined, this.psks), this.suite, given(tree));
  }

  async joinExternally({ message: data, tree, resync }) {
    const { groupInfo } = parse(data);
    const { publicPackage, privatePackage } = await this.newKeyPackage();
    if (!this.asIs) findBareKey(groupInfo.extensions);
    const { publicMessage, newState } = await mls.joinGroupExternal(groupInfo, publicPackage, privatePackage, !!resync, this.suite, given(tree));
    this.state = newState;
    return { commit: message("mls_public_message", { publicMessage }) };
  }

  add({ packages, ...options }) {
    return this.commit({ proposals: packages.map((p) => addition(p)), ...options });
  }

  remove({ leaf, ...options }) {
    return this.commit({ proposals: [removal(leaf)], ...options });
  }

  update(options) {
    return this.commit(options);
  }

  async usePSK({ id, ...options }) {
    return this.commit({ proposals: [await this.psk(id)], ...options });
  }

  async commit({ proposals = [], encrypt, omitTree }) {
    const { newState, welcome, commit } = await mls.createCommit(
      { state: this.state, cipherSuite: this.suite, pskIndex: this.index() },
      { wireAsPublicMessage: !encrypt, ratchetTreeExtension: !omitTree, extraProposals: proposals },
    );
    this.state = newState;
    return {
      commit: text(mls.encodeMlsMessage(commit)),
      welcome: welcome && message("mls_welcome", { welcome }),
      tree: text(encodeRatchetTree(newState.ratchetTree)),
    };
  }

  // reinit ends the group, in favour of one that follow creates.
  async reinit({ group }) {
    const { newState, commit } = await mls.reinitGroup(this.state, bytes(group), version, this.suite.name, [], this.suite);
    this.state = newState;
    return { commit: text(mls.encodeMlsMessage(commit)) };
  }

  // follow creates the group that reinit announced.
  async follow({ packages, group }) {
    const own = await this.newKeyPackage();
    const members = packages.map((p) => parse(p).keyPackage);
    return this.moves(
      await mls.reinitCreateNewGroup(this.state, own.publicPackage, own.privatePackage, members, bytes(group), this.suite.name, []),
    );
  }

  // branch creates a group with some of the group's members.
  async branch({ packages, group }) {
    const own = await this.newKeyPackage();
    const members = packages.map((p) => parse(p).keyPackage);
    return this.moves(await mls.branchGroup(this.state, own.publicPackage, own.privatePackage, members, bytes(group), this.suite));
  }

  moves({ newState, welcome }) {
    this.state = newState;
    return { welcome: message("mls_welcome", { welcome }), tree: text(encodeRatchetTree(newState.ratchetTree)) };
  }

  async joinAfter({ message: data, tree, reinit }) {
    const { publicPackage, privatePackage } = this.pending;
    const [join, last] = reinit ? [mls.joinGroupFromReinit] : [mls.joinGroupFromBranch, this.suite];
    this.state = await join(this.state, parse(data).welcome, publicPackage, privatePackage, given(tree), last);
  }

  async propose({ add, remove, id, encrypt }) {
    const proposal = add ? addition(add) : id ? await this.psk(id) : removal(remove);
    const { newState, message: sent } = await mls.createProposal(this.state, !encrypt, proposal, this.suite);
    this.state = newState;
    return { message: text(mls.encodeMlsMessage(sent)) };
  }

  async psk(id) {
    const pskNonce = this.suite.rng.randomBytes(this.suite.kdf.size);
    return { proposalType: "psk", psk: { preSharedKeyId: { psktype: "external", pskId: bytes(id), pskNonce } } };
  }

  learnPSK({ id, secret }) {
    this.psks[mls.bytesToBase64(bytes(id))] = bytes(secret);
  }

  index() {
    return mls.makePskIndex(this.state, this.psks);
  }

  async process({ message: data }) {
    const m = parse(data);
    let result;
    switch (m.wireformat) {
      case "mls_public_message":
        result = await mls.processPublicMessage(this.state, m.publicMessage, this.index(), this.suite);
        break;
      case "mls_private_message":
        result = await mls.processPrivateMessage(this.state, m.privateMessage, this.index(), this.suite);
        break;
      default:
        throw new Error("not a message of a group: " + m.wireformat);
    }
    this.state = result.newState;
    return { data: text(result.message), removed: this.state.groupActiveState.kind === "removedFromGroup" };
  }

  async encrypt({ data }) {
    const { newState, privateMessage } = await mls.createApplicationMessage(this.state, bytes(data), this.suite);
    this.state = newState;
    return { message: message("mls_private_message", { privateMessage }) };
  }

  async groupInfo({ omitTree }) {
    const tree = encodeRatchetTree(this.state.ratchetTree);
    const groupInfo = this.asIs
      ? await mls.createGroupInfoWithExternalPub(this.state, [], this.suite)
      : await this.rightGroupInfo(omitTree ? [] : [{ extensionType: "ratchet_tree", extensionData: tree }]);
    return { message: message("mls_group_info", { groupInfo }), tree: text(tree) };
  }

  // RFC 9420 §12.4.3.2: external_pub holds an HPKEPublicKey, which has its
  // length before it.
  async rightGroupInfo(extensions) {
    const { groupContext, confirmationTag, keySchedule } = this.state;
    const { publicKey } = await this.suite.hpke.deriveKeyPair(keySchedule.externalSecret);
    const extensionData = encode(varLenDataEncoder)(await this.suite.hpke.exportPublicKey(publicKey));
    const all = [...extensions, { extensionType: "external_pub", extensionData }];
    return createGroupInfo(groupContext, confirmationTag, this.state, all, this.suite);
  }

  async epoch() {
    const { exporterSecret, epochAuthenticator } = this.state.keySchedule;
    return {
      epoch: Number(this.state.groupContext.epoch),
      exported: text(await mls.mlsExporter(exporterSecret, "exporter", new Uint8Array(), 32, this.suite)),
      authenticator: text(epochAuthenticator),
    };
  }
}

const message = (wireformat, content) => text(mls.encodeMlsMessage({ version, wireformat, ...content }));

function parse(data) {
  const all = bytes(data);
  const decoded = mls.decodeMlsMessage(all, 0);
  if (decoded === undefined || decoded[1] !== all.length) throw new Error("ts-mls can't parse the message");
  return decoded[0];
}

// findBareKey lets ts-mls find the key of external_pub without the length, but
// verify the signature over the extension with it.
function findBareKey(extensions) {
  extensions.find = function (matches) {
    const found = Array.prototype.find.call(this, matches);
    if (found?.extensionType !== "external_pub") return found;
    return { ...found, extensionData: decodeVarLenData(found.extensionData, 0)[0] };
  };
}

const given = (tree) => tree && decodeRatchetTree(bytes(tree), 0)[0];
const addition = (data) => ({ proposalType: "add", add: { keyPackage: parse(data).keyPackage } });
const removal = (leaf) => ({ proposalType: "remove", remove: { removed: leaf } });

await serve(async ({ suite, identity, asIs }) => {
  const name = Object.keys(mls.ciphersuites).find((n) => mls.ciphersuites[n] === suite);
  return new Client(await mls.getCiphersuiteImpl(mls.getCiphersuiteFromName(name)), bytes(identity), asIs);
});
