use std::process::Command;

use testkit::{Mongod, python};

use crate::Result;

#[tokio::test]
async fn pymongo_reaches_a_mongod() -> Result {
    let mongod = Mongod::standalone().await?;
    let script = "import sys, pymongo; print(pymongo.MongoClient(sys.argv[1]).admin.command('ping')['ok'])";
    let output = Command::new(python::interpreter()?).args(["-I", "-c", script, &mongod.uri()]).output()?;
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "1.0", "{output:?}");
    Ok(())
}
