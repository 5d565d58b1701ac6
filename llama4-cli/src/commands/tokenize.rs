use anyhow::Result;
use llama4::text::Tokenizer;
use serde_json::json;

use crate::args::{Ids, TokenizeArgs};
use crate::exit::{Outcome, usage};
use crate::model;
use crate::output::Output;
use crate::prompt;

pub(super) fn run(args: &TokenizeArgs, output: &Output) -> Result<Outcome> {
    let text = match args.text.as_str() {
        "-" => prompt::stdin()?,
        text => text.to_owned(),
    };
    let tokenizer = match &args.tokenizer {
        Some(file) => Tokenizer::from_file(file)?,
        None => model::tokenizer(&model::source(&args.model))?,
    };
    if args.decode { decode(args, &text, &tokenizer, output) } else { encode(args, &text, &tokenizer, output) }
}

fn encode(args: &TokenizeArgs, text: &str, tokenizer: &Tokenizer, output: &Output) -> Result<Outcome> {
    let ids = match args.plain {
        true => tokenizer.encode_plain(text, args.begin_of_text)?,
        false => tokenizer.encode(text, args.begin_of_text)?,
    };
    let pieces = pieces(&ids, tokenizer);
    if args.json {
        output.json(&json!({ "ids": ids, "pieces": pieces }))?;
    } else {
        let lines: String = ids.iter().zip(&pieces).map(|(id, piece)| format!("{id}\t{piece}\n")).collect();
        output.write(&lines)?;
    }
    Ok(Outcome::Done)
}

fn decode(args: &TokenizeArgs, text: &str, tokenizer: &Tokenizer, output: &Output) -> Result<Outcome> {
    let ids = match text.trim().is_empty() {
        true => Vec::new(),
        false => text.parse::<Ids>().map_err(usage)?.0,
    };
    let pieces = ids
        .iter()
        .map(|&id| tokenizer.token(id).ok_or_else(|| anyhow::anyhow!("the tokenizer has no token with id {id}")))
        .collect::<Result<Vec<_>>>()?;
    let decoded = tokenizer.decode(&ids, args.skip_special)?;
    if args.json {
        output.json(&json!({ "ids": ids, "pieces": pieces, "text": decoded }))?;
    } else {
        output.line(decoded)?;
    }
    Ok(Outcome::Done)
}

/// Each token in the vocabulary's own spelling.
fn pieces(ids: &[u32], tokenizer: &Tokenizer) -> Vec<String> {
    ids.iter().map(|&id| tokenizer.token(id).unwrap_or_default()).collect()
}
