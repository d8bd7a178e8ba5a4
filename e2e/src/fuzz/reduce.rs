//! Makes a world small that still has its fault.

/// Removes what is not needed for `fails` to stay true: halves first, then smaller parts, at last one by one.
/// `fails` is asked about parts only.
pub(super) async fn shrink<T: Clone, E>(
    mut items: Vec<T>,
    mut fails: impl AsyncFnMut(&[T]) -> Result<bool, E>,
) -> Result<Vec<T>, E> {
    let mut size = items.len();
    while size > 0 {
        let mut at = 0;
        while at < items.len() {
            let end = (at + size).min(items.len());
            let rest: Vec<T> = items[..at].iter().chain(&items[end..]).cloned().collect();
            if fails(&rest).await? {
                items = rest;
            } else {
                at = end;
            }
        }
        size /= 2;
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    async fn shrunk(items: std::ops::Range<u32>, needed: &[u32]) -> Vec<u32> {
        let fails = async |part: &[u32]| Ok::<_, Infallible>(needed.iter().all(|it| part.contains(it)));
        let Ok(rest) = shrink(items.collect(), fails).await;
        rest
    }

    #[tokio::test]
    async fn only_what_is_needed_stays() {
        assert_eq!(shrunk(0..20, &[3, 17]).await, [3, 17]);
        assert_eq!(shrunk(0..7, &[]).await, [0; 0]);
        assert_eq!(shrunk(0..1, &[0]).await, [0]);
    }

    #[tokio::test]
    async fn few_questions_are_asked() {
        let mut asked = 0;
        let fails = async |part: &[u32]| {
            asked += 1;
            Ok::<_, Infallible>(part.contains(&63))
        };
        let Ok(rest) = shrink((0..64).collect(), fails).await;
        assert_eq!(rest, [63]);
        assert!(asked < 16, "{asked}");
    }
}
