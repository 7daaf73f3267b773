//! The grammar of Kubernetes label selectors: whether a text is one. What it selects is the cluster's business.

use super::action::{is_label_key, is_label_text};

/// Longest selector, in bytes.
const LEN_MAX: usize = 1_000;

/// Checks a selector.
///
/// # Errors
/// What is wrong with it, as the end of a sentence that begins with the field.
pub(super) fn check(selector: &str) -> Result<(), String> {
    if selector.trim().is_empty() {
        return Err("must not be empty: leave it out for all pods".to_owned());
    }
    if selector.len() > LEN_MAX {
        return Err(format!("must have at most {LEN_MAX} bytes"));
    }
    for part in parts(selector) {
        requirement(part.trim()).ok_or_else(|| {
            format!(
                "must be a label selector such as app=web,tier!=gold,zone in (a,b),!old; not understood: {part:?}"
            )
        })?;
    }
    Ok(())
}

/// Splits at commas outside of parentheses.
fn parts(selector: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    selector.split(move |c| {
        inside = (inside || c == '(') && c != ')';
        c == ',' && !inside
    })
}

fn requirement(text: &str) -> Option<()> {
    if let Some(key) = text.strip_prefix('!') {
        return is_label_key(key.trim()).then_some(());
    }
    for operator in ["!=", "==", "="] {
        if let Some((key, value)) = text.split_once(operator) {
            return (is_label_key(key.trim()) && is_label_text(value.trim())).then_some(());
        }
    }
    let Some((key, rest)) = text.split_once(char::is_whitespace) else {
        return is_label_key(text).then_some(());
    };
    let rest = rest.trim();
    let set = rest.strip_prefix("notin").or_else(|| rest.strip_prefix("in"))?.trim();
    let values = set.strip_prefix('(')?.strip_suffix(')')?;
    (is_label_key(key) && values.split(',').all(|value| is_label_text(value.trim()))).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kubernetes_understands_is_accepted() {
        for selector in [
            "app=web",
            "app == web",
            "app!=web",
            "app=",
            "app",
            "!app",
            "example.com/tier in (gold, silver),zone notin (a),!old,app",
            "app in (a)",
        ] {
            assert_eq!(check(selector), Ok(()), "{selector}");
        }
    }

    #[test]
    fn what_it_does_not_is_refused() {
        for selector in
            ["", " ", ",", "app=web,", "=web", "app=we b", "app in a", "app in (a", "app of (a)", "-a=b"]
        {
            assert!(check(selector).is_err(), "{selector}");
        }
        assert!(check(&"a".repeat(2_000)).is_err());
    }
}
