// Error codes: signing versions and checking signatures.
import type { ErrorKind } from "./kind.ts";

export const SIGNING_CODES = {
  SigningKeyInvalid: {
    meaning: "the key cannot be read",
    retryable: false,
    remedy: "make a pair with `mergeyard keygen`, or name a PEM file or awskms:///KEY",
  },
  SigningKeyPlace: {
    meaning: "a private key may not lie there",
    retryable: false,
    remedy: "choose a new file outside of every yard: who reads the yard could sign for it",
  },
  SigningDenied: {
    meaning: "the key service refused to sign",
    retryable: false,
    remedy: "allow kms:Sign and kms:GetPublicKey on the key to whoever publishes",
  },
  SigningUnavailable: {
    meaning: "the key service did not answer",
    retryable: true,
    remedy: "try again",
  },
  SignatureMissing: {
    meaning: "the version is not signed",
    retryable: false,
    remedy: "publish with MERGEYARD_SIGNING_KEY set, or leave out --key to go without proof of who made it",
  },
  SignatureUntrusted: {
    meaning: "no trusted key has signed the version",
    retryable: false,
    remedy: "do not use it before you know who signed it; if the key was changed, give the new one with --key",
  },
  SignatureWrong: {
    meaning: "the signature is about another manifest",
    retryable: false,
    remedy: "do not use the version: its manifest or its signature was put there by somebody else",
  },
  SignatureInvalid: {
    meaning: "the signature file is not one",
    retryable: false,
    remedy: "the file was damaged or changed; remove it and publish again",
  },
} as const satisfies Record<string, ErrorKind>;
