// Why a statement names resources with a `*`. Every Allow statement of the roles and managed policies that does must be
// here, by its name (by its actions where CDK writes it and gives none), and every entry must still be needed:
// test/infra checks both.

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
  "ecr:GetAuthorizationToken": "knows no resources",
});
