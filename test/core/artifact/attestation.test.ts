// Signatures as others make and read them: the envelopes here are made by hand, from the text of the DSSE and in-toto
// specifications, not by the code under test.
import assert from "node:assert/strict";
import { generateKeyPairSync, type KeyObject, sign } from "node:crypto";
import { test } from "node:test";
import {
  encodeStatement,
  parseEnvelopes,
  placesInYard,
  signStatement,
  verifyEnvelopes,
} from "../../../core/artifact/attestation.ts";
import { digestBytes } from "../../../core/artifact/digest.ts";
import { buildManifest, encodeManifest, manifestDigest, SIGNATURE_FILE } from "../../../core/artifact/manifest.ts";
import { parsePublicKeys, toPublicKey } from "../../../core/artifact/public-key.ts";

const INPUT = `sha256:${"a".repeat(64)}`;
const IMAGE = `sha256:${"b".repeat(64)}`;
const manifest = buildManifest({
  model: "m",
  engine: "1",
  method: "linear",
  recipe: "merge_method: linear\n",
  inputs: [{ model: "base", digest: INPUT }],
  files: [],
});
const parts = {
  manifest,
  run: "r1",
  inputs: [
    { model: "base", digest: INPUT, place: "artifacts/base/aaaaaaaaaaaaaaaa/" },
    { model: "other", digest: null, place: undefined },
  ],
  images: [IMAGE],
};
const ed25519 = generateKeyPairSync("ed25519");
const curve = generateKeyPairSync("ec", { namedCurve: "prime256v1" });
const spki = (key: KeyObject) => String(key.export({ type: "spki", format: "pem" }));

/** An envelope as the DSSE specification has it, by node:crypto alone. */
function envelope(key: KeyObject, body: string, type = "application/vnd.in-toto+json", message = body): string {
  const signed = Buffer.from(`DSSEv1 ${type.length} ${type} ${Buffer.byteLength(message)} ${message}`);
  const sig = sign(key.asymmetricKeyType === "ec" ? "sha256" : null, signed, key).toString("base64");
  const payload = Buffer.from(body).toString("base64");
  return `${JSON.stringify({ payload, payloadType: type, signatures: [{ sig }] })}\n`;
}

/** The least that in-toto and SLSA ask of a statement. */
const statementOf = (sha256: string) =>
  JSON.stringify({
    _type: "https://in-toto.io/Statement/v1",
    subject: [{ name: "manifest.json", digest: { sha256 } }],
    predicateType: "https://slsa.dev/provenance/v1",
    predicate: {
      buildDefinition: { buildType: "x:y", externalParameters: {} },
      runDetails: { builder: { id: "x:y" } },
    },
  });

const DIGEST = manifestDigest(manifest);
const HEX = DIGEST.replace("sha256:", "");
const check = (bundle: string, ...keys: KeyObject[]) =>
  verifyEnvelopes(
    parseEnvelopes(Buffer.from(bundle), { file: SIGNATURE_FILE }),
    keys.map((key) => toPublicKey(key, "k")),
    DIGEST,
    { file: SIGNATURE_FILE },
  );

test("a statement names the manifest's own bytes, the inputs, the recipe, the engine, the images and the run", () => {
  const statement = JSON.parse(Buffer.from(encodeStatement(parts)).toString());
  assert.deepEqual(statement, {
    _type: "https://in-toto.io/Statement/v1",
    subject: [
      {
        name: "manifest.json",
        digest: { sha256: digestBytes(encodeManifest(manifest)).replace("sha256:", "") },
      },
    ],
    predicateType: "https://slsa.dev/provenance/v1",
    predicate: {
      buildDefinition: {
        buildType: "mergeyard:merge/v1",
        externalParameters: {
          model: "m",
          method: "linear",
          recipe: {
            text: manifest.recipe.text,
            digest: { sha256: manifest.recipe.digest.replace("sha256:", "") },
          },
        },
        resolvedDependencies: [
          { name: "base", uri: "mergeyard:artifacts/base/aaaaaaaaaaaaaaaa/", digest: { sha256: "a".repeat(64) } },
          { name: "other", annotations: { digest: "none" } },
        ],
      },
      runDetails: {
        builder: {
          id: "mergeyard:publish",
          version: { mergeyard: "1" },
          builderDependencies: [{ name: "worker image", digest: { sha256: "b".repeat(64) } }],
        },
        metadata: { invocationId: "r1" },
      },
    },
  });
});

test("what is signed is DSSE's encoding, and signing is done by whoever has the key", async () => {
  const body = encodeStatement(parts);
  let message = "";
  const signer = {
    keyId: "sha256:me",
    sign: async (bytes: Uint8Array) => {
      message = Buffer.from(bytes).toString();
      return sign(null, bytes, ed25519.privateKey);
    },
  };
  const line = await signStatement(body, signer, new AbortController().signal);
  const text = Buffer.from(body).toString();
  assert.equal(message, `DSSEv1 28 application/vnd.in-toto+json ${body.length} ${text}`);
  assert.equal(JSON.parse(line).signatures[0].keyid, "sha256:me");
  const { keyId, statement } = check(line, ed25519.publicKey);
  assert.equal(keyId, toPublicKey(ed25519.publicKey, "k").id);
  assert.deepEqual(placesInYard(statement), [{ place: "artifacts/base/aaaaaaaaaaaaaaaa/", digest: INPUT }]);
});

test("envelopes that other tools make are read, of either kind of key, among others", () => {
  const foreign = envelope(curve.privateKey, "{}", "text/plain");
  const bundle =
    foreign + envelope(curve.privateKey, statementOf(HEX)) + envelope(ed25519.privateKey, statementOf(HEX));
  for (const { publicKey } of [ed25519, curve]) {
    assert.equal(check(bundle, publicKey).keyId, toPublicKey(publicKey, "k").id);
  }
  const [first, second] = parsePublicKeys(spki(ed25519.publicKey) + spki(curve.publicKey), "keys.pem");
  assert.equal(first?.id, toPublicKey(ed25519.publicKey, "k").id);
  assert.equal(second?.hash, "sha256");
});

test("what no trusted key has signed, or what is about something else, is refused by name", () => {
  const stranger = generateKeyPairSync("ed25519");
  const right = statementOf(HEX);
  const cases: readonly [string, string][] = [
    ["SignatureMissing", ""],
    ["SignatureUntrusted", envelope(stranger.privateKey, right)],
    ["SignatureUntrusted", envelope(ed25519.privateKey, right, "text/plain")],
    ["SignatureUntrusted", envelope(ed25519.privateKey, right, undefined, statementOf("0".repeat(64)))],
    ["SignatureWrong", envelope(ed25519.privateKey, statementOf("0".repeat(64)))],
    ["SignatureWrong", envelope(ed25519.privateKey, right.replace("manifest.json", "other.json"))],
    ["SignatureInvalid", envelope(ed25519.privateKey, right.replace("Statement/v1", "Statement/v9"))],
    ["SignatureInvalid", "{}\n"],
    ["SignatureInvalid", "not json\n"],
    ["SignatureInvalid", envelope(ed25519.privateKey, right).repeat(65)],
  ];
  for (const [code, bundle] of cases) {
    assert.throws(() => check(bundle, ed25519.publicKey), { name: code }, `${code}: ${bundle.slice(0, 80)}`);
  }
  // The stranger's name for its key is a hint, and no more.
  const named = JSON.parse(envelope(stranger.privateKey, right));
  named.signatures[0].keyid = toPublicKey(ed25519.publicKey, "k").id;
  assert.throws(() => check(`${JSON.stringify(named)}\n`, ed25519.publicKey), { name: "SignatureUntrusted" });
});

test("keys of other kinds, private keys and text without keys are no trusted keys", () => {
  const rsa = generateKeyPairSync("rsa", { modulusLength: 2048 });
  const other = generateKeyPairSync("ec", { namedCurve: "secp384r1" });
  const secret = String(ed25519.privateKey.export({ type: "pkcs8", format: "pem" }));
  const damaged = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n";
  for (const text of ["", "words", secret, spki(rsa.publicKey), spki(other.publicKey), damaged]) {
    assert.throws(() => parsePublicKeys(text, "keys.pem"), { name: "SigningKeyInvalid" });
  }
});

test("no file of a version may have the signature's name", () => {
  const files = [{ name: SIGNATURE_FILE, bytes: 0, digest: INPUT }];
  const { model, engine, method, inputs } = manifest;
  assert.throws(() => buildManifest({ model, engine, method, recipe: "", inputs, files }), { name: "ManifestInvalid" });
});
