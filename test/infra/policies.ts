// IAM, as far as our policies need it: which statements a role has, and whether they allow an action. And a store that
// obeys: each of its operations asks for what S3 would ask for, so that the real steps can be run under a role.
import * as z from "zod";
import { MergeyardError } from "../../core/error.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { BUCKET_ARN, type Deployment } from "./templates.ts";

const list = z.union([z.string(), z.array(z.string())]).transform((value) => [value].flat());
const statementSchema = z.looseObject({
  Sid: z.string().optional(),
  Effect: z.enum(["Allow", "Deny"]),
  Action: list,
  Resource: list,
  Condition: z.record(z.string(), z.record(z.string(), z.json())).optional(),
});
export type Statement = z.infer<typeof statementSchema>;
const documentSchema = z.looseObject({ Statement: z.array(statementSchema) });

export type RoleGrant = {
  readonly id: string;
  readonly service: string;
  readonly statements: readonly Statement[];
  readonly managedPolicies: readonly string[];
};

const trustSchema = z.looseObject({
  Statement: z.tuple([z.looseObject({ Principal: z.looseObject({ Service: z.string() }) })]),
});

/** Every role with the statements of the policies that name it. */
export function rolesOf(deployment: Deployment): readonly RoleGrant[] {
  const policies = deployment.ofType("AWS::IAM::Policy");
  return deployment.ofType("AWS::IAM::Role").map(({ stack, id, properties }) => {
    const own = policies.filter(
      ({ properties: { Roles } }) => Array.isArray(Roles) && Roles.includes(`${stack}/${id}`),
    );
    const { Statement: trust } = trustSchema.parse(properties.AssumeRolePolicyDocument);
    return {
      id,
      service: trust[0].Principal.Service,
      statements: own.flatMap((policy) => statementsIn(policy.properties.PolicyDocument)),
      managedPolicies: z.array(z.string()).parse(properties.ManagedPolicyArns ?? []),
    };
  });
}

export function statementsIn(document: unknown): readonly Statement[] {
  return documentSchema.parse(document).Statement;
}

/** Conditions are not evaluated: a statement with one allows what it names. */
export function allows(statements: readonly Statement[], action: string, resource: string): boolean {
  const applies = ({ Action, Resource }: Statement) =>
    Action.some((pattern) => matches(pattern, action)) && Resource.some((pattern) => matches(pattern, resource));
  const applying = statements.filter(applies);
  return applying.length > 0 && applying.every(({ Effect }) => Effect === "Allow");
}

function matches(pattern: string, text: string): boolean {
  const expression = pattern
    .split("*")
    .map((part) => part.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&"))
    .join(".*");
  return new RegExp(`^${expression}$`, "s").test(text);
}

/** Whether listing keys that begin with `prefix` is allowed; undefined: whatever they begin with. */
function allowsListing(statements: readonly Statement[], resource: string, prefix: string | undefined): boolean {
  return statements.some((statement) => {
    const patterns = list.optional().parse(statement.Condition?.StringLike?.["s3:prefix"]);
    const isWithin = patterns === undefined || patterns.some((own) => prefix !== undefined && matches(own, prefix));
    return isWithin && allows([statement], "s3:ListBucket", resource);
  });
}

export const objectArn = (key: string): string => `${BUCKET_ARN}/${key}`;

/** What policies call the bucket and its objects: themselves, or an access point. */
export type Named = { readonly bucket: string; readonly object: (key: string) => string };
const ITSELF: Named = { bucket: BUCKET_ARN, object: objectArn };

/** The store as a role sees it; what it may not do is refused as S3 refuses it, missing objects among it. */
export function underRole(store: ObjectStore, statements: readonly Statement[], named = ITSELF): ObjectStore {
  const denied = (key: string, found: string) =>
    new MergeyardError("StoreAccessDenied", { where: { store: store.uri, file: key }, found });
  const may = (key: string, ...actions: readonly string[]): ObjectStore => {
    for (const action of actions) {
      const resource = action.startsWith("s3:ListBucket") ? named.bucket : named.object(key);
      if (!allows(statements, action, resource)) throw denied(key, action);
    }
    return store;
  };
  const mayList = (prefix: string): ObjectStore => {
    if (!allowsListing(statements, named.bucket, prefix)) throw denied(prefix, "s3:ListBucket");
    return store;
  };
  // That an object is missing is told to who may list the bucket, and by a listing of the key.
  const mayRead = async (key: string): Promise<ObjectStore> => {
    const isThere = (await store.head(key)) !== undefined;
    if (!isThere && allowsListing(statements, named.bucket, undefined)) return may(key, "s3:GetObject");
    return isThere ? may(key, "s3:GetObject") : mayList(key);
  };
  const mayWrite = (key: string) => may(key, "s3:PutObject");
  const mayAbort = (key: string) => may(key, "s3:AbortMultipartUpload", "s3:ListBucketMultipartUploads");
  // What was written is looked at by HEAD: after a condition that failed, and for its size and ETag.
  const mayReplace = async (key: string) => {
    await mayRead(key);
    return may(key, "s3:PutObject");
  };
  return {
    uri: store.uri,
    isLocal: store.isLocal,
    head: async (key, o) => (await mayRead(key)).head(key, o),
    readInto: async (key, offset, into, o) => (await mayRead(key)).readInto(key, offset, into, o),
    get: async (key, limitBytes, o) => (await mayRead(key)).get(key, limitBytes, o),
    list: (prefix, o) => mayList(prefix).list(prefix, o),
    create: async (key, bytes, o) => (await mayReplace(key)).create(key, bytes, o),
    replace: async (key, bytes, etag, o) => (await mayReplace(key)).replace(key, bytes, etag, o),
    beginWrite: async (key, bytes, regions, o) => mayWrite(key).beginWrite(key, bytes, regions, o),
    openRegion: async (ticket, index, o) => mayWrite(ticket.key).openRegion(ticket, index, o),
    finishWrite: async (ticket, receipts, o) => (await mayReplace(ticket.key)).finishWrite(ticket, receipts, o),
    recoverRegions: async (ticket, o) => may(ticket.key, "s3:ListMultipartUploadParts").recoverRegions(ticket, o),
    abortWrite: async (ticket, o) => mayAbort(ticket.key).abortWrite(ticket, o),
    copy: async (source, target, o) => {
      may(source, "s3:GetObject", "s3:GetObjectTagging");
      await mayReplace(target);
      return may(target, "s3:PutObjectTagging", "s3:AbortMultipartUpload").copy(source, target, o);
    },
    delete: async (key, o) => may(key, "s3:DeleteObject").delete(key, o),
  };
}
