// The stubs that are generated from proto/ into gen/, for both Go workers.
module baton-jobs

go 1.24.0
