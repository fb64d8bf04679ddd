// Why a statement names resources with a `*`. Every Allow statement of the roles and managed policies that does must be
// here, by its name (by its actions where CDK writes it and gives none), and every entry must still be needed:
// test/infra checks both. The same reasons acknowledge what cdk-nag finds in those statements, and in no others.
import { type Stack, Validations } from "aws-cdk-lib";
import { CfnManagedPolicy, CfnPolicy } from "aws-cdk-lib/aws-iam";
import { flattenCfnReference } from "cdk-nag/lib/utils/flatten-cfn-reference.js";
import * as z from "zod";

/** The reason for a statement, by its Sid, or by its actions in order, joined with commas. */
export const WILDCARD_REASONS: Readonly<Record<string, string>> = Object.freeze({
  YardRead: "objects have no names before they are made: the patterns are the areas that the role reads",
  YardWrite: "the same: an area, or one kind of file in the folders of runs",
  YardDelete:
    "for people, never for the pipeline: what may be cleaned up; deleted versions can be restored for a while",
  SourceRead: "a pipeline may name any model in a bucket that the configuration opens to it",
  SubmitJobs: "a job definition's revisions: the name is fixed, the number grows with every deployment",
  FollowJobs: "batch:DescribeJobs knows no resources",
  EndJobs: "jobs have no names before they are submitted; the role has no other way to learn of one than submitting it",
  DeliverLogs: "the actions of log delivery know no resources",
  RunFollow: "executions of this one state machine",
  RunJobs: "batch:DescribeJobs and batch:ListJobs know no resources",
  RunEndJobs: "jobs have no names before they are submitted; those of other queues need their own grant to be seen",
  RunLogs: "the log groups of this environment",
  "ecr:GetAuthorizationToken": "the login of an account's registry knows no resources",
});

const listSchema = z.union([z.unknown().array(), z.unknown().transform((value) => [value])]);
const documentSchema = z.looseObject({
  Statement: z.array(
    z.looseObject({ Sid: z.string().optional(), Effect: z.string(), Action: listSchema, Resource: listSchema }),
  ),
});

/**
 * Acknowledges the wildcards of a stack's policies, each for its statement's reason; a statement without one stays a
 * finding. `imports` has, for values of other stacks, the names under which a template imports them, by what they are
 * called here.
 */
export function acknowledgeWildcards(stack: Stack, imports: ReadonlyMap<string, string>): void {
  for (const policy of stack.node.findAll()) {
    if (!(policy instanceof CfnPolicy || policy instanceof CfnManagedPolicy)) continue;
    const { Statement } = documentSchema.parse(stack.resolve(policy.policyDocument));
    for (const { Sid, Effect, Action, Resource } of Statement) {
      const reason = WILDCARD_REASONS[Sid ?? Action.map(String).toSorted().join(",")];
      if (Effect !== "Allow" || reason === undefined) continue;
      for (const flat of Resource.map(flattenCfnReference).filter((text) => text.includes("*"))) {
        const resource = flat.replace(/^<.*?>/, (value) => imports.get(value) ?? value);
        Validations.of(policy).acknowledge({ id: `AwsSolutions-IAM5[Resource::${resource}]`, reason });
      }
    }
  }
}
