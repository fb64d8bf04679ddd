// A signing key inside AWS KMS: asymmetric, for signing, ECC_NIST_P256. The service signs; the key never leaves it.
import { createHash, createPublicKey } from "node:crypto";
import { GetPublicKeyCommand, KMSClient, SignCommand } from "@aws-sdk/client-kms";
import type { Signer } from "../core/artifact/attestation.ts";
import { type PublicKey, toPublicKey } from "../core/artifact/public-key.ts";
import { MergeyardError } from "../core/error.ts";

export type KmsKey = Signer & { readonly publicKey: PublicKey };

/** Of the client, what signing needs. */
type KeyService = Pick<KMSClient, "send">;

/**
 * `keyId` is an id, ARN (which says its region) or `alias/name`. Throws SigningKeyInvalid (another kind of key, or
 * none), SigningDenied, SigningUnavailable.
 */
export async function openKmsKey(keyId: string, settings: { readonly endpoint: string | undefined }): Promise<KmsKey> {
  const { endpoint } = settings;
  const region = /^arn:[^:]+:kms:([^:]+):/.exec(keyId)?.[1];
  const client: KeyService = new KMSClient({ ...(endpoint && { endpoint }), ...(region && { region }) });
  const place = `awskms:///${keyId}`;
  const answer = await ask(place, () => client.send(new GetPublicKeyCommand({ KeyId: keyId })));
  const key = createPublicKey({ key: Buffer.from(answer.PublicKey ?? []), format: "der", type: "spki" });
  const publicKey = toPublicKey(key, place);
  if (publicKey.hash === null) {
    throw new MergeyardError("SigningKeyInvalid", {
      where: { file: place },
      found: "ed25519",
      expected: "ECC_NIST_P256",
    });
  }
  return {
    keyId: publicKey.id,
    publicKey,
    async sign(message, signal) {
      const command = new SignCommand({
        KeyId: keyId,
        Message: createHash("sha256").update(message).digest(),
        MessageType: "DIGEST",
        SigningAlgorithm: "ECDSA_SHA_256",
      });
      const signed = await ask(place, () => client.send(command, { abortSignal: signal }));
      return signed.Signature ?? new Uint8Array();
    },
  };
}

/** What is wrong with the key or the request, whoever asks again. */
const PERMANENT = /^(NotFound|Disabled|InvalidKeyUsage|KMSInvalidState|UnsupportedOperation|Validation|InvalidArn)/;
const DENIED =
  /^(AccessDenied|ExpiredToken|UnrecognizedClient|InvalidSignature|CredentialsProviderError|KMSInvalidMac)/;

async function ask<Answer>(place: string, request: () => Promise<Answer>): Promise<Answer> {
  try {
    return await request();
  } catch (cause) {
    const [name, text] = cause instanceof Error ? [cause.name, cause.message] : ["Error", String(cause)];
    const details = { where: { file: place }, found: `${name}: ${text}`, cause };
    if (DENIED.test(name)) throw new MergeyardError("SigningDenied", details);
    if (PERMANENT.test(name)) throw new MergeyardError("SigningKeyInvalid", details);
    throw new MergeyardError("SigningUnavailable", details);
  }
}
