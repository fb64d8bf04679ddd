// Names for the placeholders of the definition, as a deployment would give them.
export const NAMES = {
  PlanFunction: "arn:aws:lambda:eu-west-1:111122223333:function:plan",
  CheckFunction: "arn:aws:lambda:eu-west-1:111122223333:function:check",
  PublishFunction: "arn:aws:lambda:eu-west-1:111122223333:function:publish",
  NotifyFunction: "arn:aws:lambda:eu-west-1:111122223333:function:notify",
  RecordFailureFunction: "arn:aws:lambda:eu-west-1:111122223333:function:record-failure",
  ShardJobDefinition: "arn:aws:batch:eu-west-1:111122223333:job-definition/sharder:1",
  WorkerJobDefinition: "arn:aws:batch:eu-west-1:111122223333:job-definition/worker:1",
  GpuWorkerJobDefinition: "arn:aws:batch:eu-west-1:111122223333:job-definition/gpu-worker:1",
  CpuQueue: "arn:aws:batch:eu-west-1:111122223333:job-queue/cpu",
  GpuQueue: "arn:aws:batch:eu-west-1:111122223333:job-queue/gpu",
};
