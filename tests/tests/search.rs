//! Questions over the demo's estate: two clusters with the same applications, an override and some drift between them.

mod shared;

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use shared::{origins, run};
use tests::estate::{Estate, SEARCH};
use tests::eventually;
use tests::fleetglass::program;

/// What a query finds, as `cluster/name`.
async fn found(estate: &Estate, query: &str) -> Result<Vec<String>> {
    Ok(origins(&estate.ask("query", &[("q", query), ("limit", "1000")]).await?))
}

#[test]
fn one_grammar_finds_objects_of_all_kinds_and_clusters() -> Result<()> {
    run(async || {
        let estate = Estate::start().await?;
        let deployments = ["pegasus/nginx", "pegasus-2/nginx"];
        assert_eq!(found(&estate, "kind:Deployment image:*nginx*").await?, deployments);
        assert_eq!(found(&estate, "kind:Deployment nginx cluster:pegasus-2").await?, ["pegasus-2/nginx"]);
        assert_eq!(found(&estate, "kind:Deployment name:redis spec.replicas:>1").await?, ["pegasus-2/redis"]);
        assert_eq!(found(&estate, "kind:Deployment label.app.kubernetes.io/name:redis").await?.len(), 2);
        ensure!(found(&estate, "kind:(Pod OR ReplicaSet) owner:*").await?.len() > 4);
        ensure!(found(&estate, "no-such-word-anywhere").await?.is_empty());
        let secrets = found(&estate, "kind:Secret data:*").await?;
        ensure!(secrets.is_empty(), "{secrets:?}");
        let shown = estate.ask("query", &[("q", "kind:Secret")]).await?;
        ensure!(!origins(&shown).is_empty() && shown["items"][0]["data"].is_null(), "{shown}");
        ensure!(found(&estate, "karmada").await?.is_empty(), "our own annotation is no text of theirs");
        let list = estate.ask("query", &[("q", "kind:Deployment"), ("limit", "3"), ("count", "true")]).await?;
        assert_eq!((&list["kind"], &list["metadata"]["remainingItemCount"]), (&"List".into(), &5.into()));
        Ok(())
    })
}

#[test]
fn pages_follow_each_other_and_belong_to_their_question() -> Result<()> {
    run(async || {
        let estate = Estate::start().await?;
        let asked = [("q", "kind:(Deployment OR Pod)"), ("orderBy", "-created,name"), ("limit", "3")];
        let mut all = Vec::new();
        let mut token = String::new();
        loop {
            let page = estate.ask("query", &[&asked[..], &[("continue", &token)]].concat()).await?;
            all.extend(origins(&page));
            let Some(next) = page["metadata"]["continue"].as_str().filter(|next| !next.is_empty()) else { break };
            token = next.to_owned();
        }
        let whole = estate.ask("query", &[asked[0], asked[1], ("limit", "1000")]).await?;
        assert_eq!(all, origins(&whole));
        let first = estate.ask("query", &asked).await?;
        let token = first["metadata"]["continue"].as_str().context("no token")?;
        let other = estate.ask("query", &[("q", "kind:Pod"), ("continue", token)]).await.unwrap_err().to_string();
        ensure!(other.contains("belongs to another query"), "{other}");
        Ok(())
    })
}

#[test]
fn facets_count_exactly_what_a_query_finds() -> Result<()> {
    run(async || {
        let estate = Estate::start().await?;
        let counted = estate.ask("facets", &[("q", "kind:Deployment"), ("by", "cluster,spec.replicas,image")]).await?;
        assert_eq!((&counted["kind"], &counted["total"]), (&"FacetList".into(), &8.into()));
        for facet in counted["facets"].as_array().context("no facets")?.iter().take(2) {
            let by = facet["by"].as_str().context("no field")?;
            for value in facet["values"].as_array().context("no values")? {
                let text = value["value"].as_str().context("no value")?;
                let found = found(&estate, &format!("kind:Deployment {by}:{text}")).await?;
                assert_eq!(value["count"], found.len(), "{by}:{text}");
            }
        }
        Ok(())
    })
}

#[test]
fn kubectl_prints_a_table_with_the_fields_that_the_query_names() -> Result<()> {
    run(async || {
        let estate = Estate::start().await?;
        let client = reqwest::Client::builder().tls_danger_accept_invalid_certs(true);
        let config = estate.kubectl.run(&["config", "view", "--raw", "-o", "json"]).await?;
        let config: Value = serde_json::from_str(&config)?;
        let field = |pointer: &str| -> Result<Vec<u8>> {
            let text = config.pointer(pointer).and_then(Value::as_str).context("no such field")?;
            Ok(base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text)?)
        };
        let user = "/users/0/user";
        let pem =
            [field(&format!("{user}/client-certificate-data"))?, field(&format!("{user}/client-key-data"))?].concat();
        let client = client.identity(reqwest::Identity::from_pem(&pem)?).build()?;
        let server = config["clusters"][0]["cluster"]["server"].as_str().context("no server")?;
        let asked = client
            .get(format!("{server}{SEARCH}/query"))
            .query(&[("q", "kind:Deployment spec.replicas:>1 name:redis")])
            .header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io");
        let table: Value = asked.send().await?.error_for_status()?.json().await?;
        let columns: Vec<&str> = table["columnDefinitions"]
            .as_array()
            .context("no columns")?
            .iter()
            .filter_map(|column| column["name"].as_str())
            .collect();
        let shown = ["Cluster", "Kind", "Namespace", "Name", "Age", "spec.replicas", "image", "owner", "changed"];
        assert_eq!(columns, shown, "the last three where there is room");
        let cells = &table["rows"][0]["cells"];
        assert_eq!(
            (&cells[0], &cells[1], &cells[3], &cells[5]),
            (&"pegasus-2".into(), &"Deployment".into(), &"redis".into(), &"3".into())
        );
        Ok(())
    })
}

#[test]
fn a_mistake_is_answered_with_the_character_and_what_to_write() -> Result<()> {
    run(async || {
        let estate = Estate::start().await?;
        for (parameters, says) in [
            (
                &[("q", "kind:Pod namspace:shop")][..],
                "q: character 10: there is no field namspace; did you mean namespace?",
            ),
            (&[("q", "(a OR b")], "q: character 1: this ( is not closed"),
            (&[("q", "a"), ("limit", "20000")], "limit: a number from 1 to 10000 is expected"),
            (&[("q", "a"), ("orderby", "name")], "orderby: there is no such parameter here"),
            (&[("q", "a"), ("orderBy", "name,labels.x")], "orderBy: character 6:"),
            (&[("q", "a"), ("cluster", "nowhere")], "\"nowhere\" not found"),
            (&[("q", "a"), ("continue", "rubbish")], "continue: not a token that this server gave"),
        ] {
            let error = estate.ask("query", parameters).await.unwrap_err().to_string();
            ensure!(error.contains(says), "{parameters:?}: {error}");
        }
        let error = estate.ask("facets", &[("q", "a")]).await.unwrap_err().to_string();
        ensure!(error.contains("by: name one to 20 fields"), "{error}");
        eventually(Duration::from_secs(60), async || found(&estate, "kind:Deployment").await).await?;
        Ok(())
    })
}

#[test]
fn what_something_owns_is_found_over_several_steps() -> Result<()> {
    run(async || {
        let estate = Estate::start().await?;
        let direct = estate.ask("query", &[("q", "owner:Deployment/nginx"), ("limit", "1000")]).await?;
        let kinds = |list: &Value| -> BTreeSet<String> {
            let items = list["items"].as_array().into_iter().flatten();
            items.filter_map(|item| item["kind"].as_str().map(str::to_owned)).collect()
        };
        assert_eq!(kinds(&direct), BTreeSet::from(["ReplicaSet".to_owned()]));
        let all = estate.ask("query", &[("q", "owner~:Deployment/nginx"), ("limit", "1000")]).await?;
        assert_eq!(kinds(&all), BTreeSet::from(["Pod".to_owned(), "ReplicaSet".to_owned()]));
        let pods = found(&estate, "kind:Pod name:nginx*").await?;
        assert_eq!(found(&estate, "owner~:Deployment/nginx kind:Pod").await?, pods);
        ensure!(!pods.is_empty(), "the estate has no pods of nginx");
        let one = found(&estate, "owner~:Deployment/nginx kind:Pod cluster:pegasus").await?;
        ensure!(!one.is_empty() && one.len() < pods.len(), "{one:?}");
        ensure!(found(&estate, "owner~:Deployment/nobody").await?.is_empty());
        Ok(())
    })
}

#[test]
fn plain_kubectl_chooses_clusters_by_a_label_selector() -> Result<()> {
    run(async || {
        let estate = Estate::start().await?;
        let server = format!("--server={}", estate.cache().await?);
        let names = async |selector: &str| -> Result<Vec<String>> {
            let columns =
                "custom-columns=C:.metadata.annotations.resource\\.karmada\\.io/cached-from-cluster,N:.metadata.name";
            let words = ["get", "deployments", "-A", &server, "-l", selector, "--no-headers", "-o", columns];
            let text = estate.kubectl.run(&words).await?;
            Ok(text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join("/")).collect())
        };
        assert_eq!(
            names("search.karmada.io/cluster=pegasus-2,app.kubernetes.io/name=redis").await?,
            ["pegasus-2/redis"]
        );
        let both = names("search.karmada.io/cluster in (pegasus,pegasus-2),app.kubernetes.io/name=redis").await?;
        assert_eq!(both, ["pegasus/redis", "pegasus-2/redis"]);
        let refused = names("search.karmada.io/region=north").await.unwrap_err().to_string();
        ensure!(refused.contains("search.karmada.io/cluster=NAME"), "{refused}");
        Ok(())
    })
}

#[test]
fn answers_come_in_the_form_that_is_asked_for_whole_or_in_fields() -> Result<()> {
    run(async || {
        let estate = Estate::start().await?;
        let text = async |format: &str, fields: &str| -> Result<String> {
            let asked = [("q", "kind:Deployment name:redis"), ("format", format), ("fields", fields)];
            let query: String = form_urlencoded::Serializer::new(String::new()).extend_pairs(asked).finish();
            estate.kubectl.run(&["get", "--raw", &format!("{SEARCH}/query?{query}")]).await
        };
        let csv = text("csv", "spec.replicas,image").await?;
        let lines: Vec<&str> = csv.lines().collect();
        assert_eq!(lines[0], "cluster,kind,namespace,name,spec.replicas,image");
        ensure!(lines.len() == 3 && lines[1].starts_with("pegasus,Deployment,"), "{csv}");
        let lines = text("ndjson", "").await?;
        for line in lines.lines() {
            let object: Value = serde_json::from_str(line)?;
            assert_eq!(object["metadata"]["name"], "redis");
            ensure!(object["spec"]["template"].is_object(), "{line}");
        }
        assert_eq!(lines.lines().count(), 2);
        let list: Value = serde_json::from_str(&text("json", "spec.replicas").await?)?;
        let replicas: Vec<&Value> = list["items"]
            .as_array()
            .context("no items")?
            .iter()
            .map(|item| &item["fields"]["spec.replicas"][0])
            .collect();
        assert_eq!(replicas, [&Value::from(1), &Value::from(3)]);
        ensure!(list["items"][0]["spec"].is_null(), "{list}");
        let yaml: Value = serde_yaml::from_str(&text("yaml", "").await?)?;
        assert_eq!((&yaml["kind"], &yaml["items"][1]["metadata"]["name"]), (&"List".into(), &"redis".into()));
        let refused = text("xml", "").await.unwrap_err().to_string();
        ensure!(refused.contains("json, yaml, ndjson, csv or table"), "{refused}");
        Ok(())
    })
}

/// What `fleetglass search` prints, complains of, and ends with.
fn searched(estate: &Estate, words: &[&str]) -> Result<(String, String, Option<i32>)> {
    let told = estate.fleetglass(&[&["search"], words].concat())?;
    Ok((told.output, told.complaints, told.code))
}

#[test]
fn the_command_line_client_shows_tables_names_counts_and_its_mistakes() -> Result<()> {
    run(async || {
        let estate = Estate::start().await?;
        let (table, _, code) = searched(&estate, &["kind:Deployment name:redis", "spec.replicas:>0"])?;
        let lines: Vec<&str> = table.lines().collect();
        ensure!(
            lines[0].split_whitespace().eq(["CLUSTER", "KIND", "NAMESPACE", "NAME", "AGE", "SPEC.REPLICAS"]),
            "{table}"
        );
        ensure!(lines.len() == 3 && lines[2].starts_with("pegasus-2   Deployment"), "{table}");
        ensure!(!table.contains('\u{1b}'), "no colours behind a pipe");
        assert_eq!(code, Some(0));
        let (names, ..) = searched(&estate, &["kind:Deployment name:redis", "-o", "name"])?;
        ensure!(names.lines().count() == 2 && names.starts_with("pegasus/"), "{names}");
        let (all, ..) = searched(&estate, &["kind:(Deployment OR Pod)", "-o", "name", "--limit", "0"])?;
        let (count, ..) = searched(&estate, &["kind:(Deployment OR Pod)", "--count"])?;
        assert_eq!(count.trim(), all.lines().count().to_string());
        let (facets, ..) = searched(&estate, &["kind:Deployment", "--by", "cluster"])?;
        ensure!(facets.starts_with("CLUSTER") && facets.contains("pegasus-2   "), "{facets}");
        let (csv, ..) = searched(&estate, &["kind:Deployment", "-o", "csv", "--fields", "image", "--limit", "0"])?;
        assert_eq!(csv.lines().count(), 9, "{csv}");
        let (nothing, told, code) = searched(&estate, &["name:nobody"])?;
        assert_eq!((nothing.as_str(), told.trim(), code), ("", "Nothing was found.", Some(1)));
        let (_, told, code) = searched(&estate, &["kind:Pod namspace:shop"])?;
        ensure!(told.contains("did you mean namespace?") && told.ends_with("           ^\n"), "{told}");
        assert_eq!(code, Some(2));
        let (_, told, code) = searched(&estate, &["a", "--cluster", "nowhere"])?;
        ensure!(code == Some(2) && told.contains("\"nowhere\" not found"), "{told}");
        Ok(())
    })
}

#[test]
fn plain_kubectl_asks_queries_and_sorts_by_label_selectors() -> Result<()> {
    run(async || {
        let estate = Estate::start().await?;
        let server = format!("--server={}", estate.cache().await?);
        let names = async |selector: &str, more: &str| -> Result<Vec<String>> {
            let words = ["get", "deployments", "-A", &server, "-l", selector, "--no-headers", more];
            let text = estate.kubectl.run(&words).await?;
            // Namespace, cluster, name.
            let name = |line: &str| line.split_whitespace().skip(1).take(2).collect::<Vec<_>>().join("/");
            Ok(text.lines().map(name).collect())
        };
        let several = "search.karmada.io/query=spec.replicas:>1 (image:*nginx* OR image:*redis*)";
        assert_eq!(names(several, "--show-kind=false").await?, ["pegasus/nginx", "pegasus-2/nginx", "pegasus-2/redis"]);
        let sorted = "app.kubernetes.io/name in (nginx,redis),search.karmada.io/order-by in (-spec.replicas,name)";
        let all = ["pegasus/nginx", "pegasus-2/redis", "pegasus-2/nginx", "pegasus/redis"];
        assert_eq!(names(sorted, "--chunk-size=500").await?, all);
        assert_eq!(names(sorted, "--chunk-size=1").await?, all, "page by page");
        let mistaken = names("search.karmada.io/query=image:", "-v0").await.unwrap_err().to_string();
        ensure!(mistaken.contains("character 7: a value is missing behind image:"), "{mistaken}");
        Ok(())
    })
}

#[test]
fn an_explanation_says_why_something_is_not_found() -> Result<()> {
    run(async || {
        let estate = Estate::start().await?;
        let explained = |query: &str, of: &str| -> Result<(String, Option<i32>)> {
            let told = estate.fleetglass(&["search", query, &format!("--explain{of}")])?;
            Ok((told.output, told.code))
        };
        let query = "kind:Deployment name:redis spec.replicas:>2";
        let (matches, code) = explained(query, "=pegasus-2/redis/Deployment/redis")?;
        ensure!(code == Some(0) && matches.contains("is found") && matches.contains("it has 3"), "{matches}");
        for (of, says) in [
            ("=pegasus/redis/Deployment/redis", "it has 1"),
            ("=pegasus/redis/Deployment/reddis", "did you mean redis?"),
            ("=pegasus/nginx/Deployment/redis", "but in namespace redis"),
            ("=pegasus/redis/CronJob/redis", "no registry selects CronJob in cluster pegasus"),
            ("=pegasos/redis/Deployment/redis", "there is no cluster pegasos; did you mean pegasus?"),
        ] {
            let (told, code) = explained(query, of)?;
            ensure!(code == Some(1) && told.contains("is not found") && told.contains(says), "{of}: {told}");
        }
        let (counts, code) = explained("kind:Deployment kind:Poood", "")?;
        ensure!(code == Some(1) && counts.contains("no registry selects a kind Poood"), "{counts}");
        ensure!(counts.contains("8 objects") && counts.contains("0 objects"), "{counts}");
        let refused = estate.ask("query", &[("explain", "redis")]).await.unwrap_err().to_string();
        ensure!(refused.contains("CLUSTER/NAMESPACE/KIND/NAME"), "{refused}");
        Ok(())
    })
}

#[test]
fn clusters_are_compared_page_by_page_or_by_what_is_missing() -> Result<()> {
    run(async || {
        let estate = Estate::start().await?;
        let all = estate.ask("differences", &[("q", "kind:(Deployment OR Node)")]).await?;
        let names = |list: &Value| -> Vec<String> {
            let items = list["items"].as_array().cloned().unwrap_or_default();
            items.iter().map(|item| item["name"].as_str().unwrap_or_default().to_owned()).collect()
        };
        let (mut paged, mut token) = (Vec::new(), String::new());
        loop {
            let asked = [("q", "kind:(Deployment OR Node)"), ("limit", "3"), ("continue", &token)];
            let page = estate.ask("differences", &asked).await?;
            paged.extend(names(&page));
            token = page["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
            if token.is_empty() {
                break;
            }
        }
        assert_eq!((names(&all).len(), paged), (8, names(&all)));
        let redis = &all["items"].as_array().context("items")?.iter().find(|item| item["name"] == "redis");
        let fields = redis.context("redis differs")?["fields"].as_array().cloned().unwrap_or_default();
        let replicas = fields.iter().find(|field| field["path"] == "spec.replicas").context("its replicas differ")?;
        assert_eq!(replicas["values"], serde_json::json!({ "pegasus": 1, "pegasus-2": 3 }));
        let one = estate.ask("differences", &[("cluster", "pegasus")]).await.unwrap_err().to_string();
        ensure!(one.contains("name two or more"), "{one}");
        let alike = estate.fleetglass(&["diff", "kind:Deployment name:argocd-server"])?;
        assert_eq!((alike.code, alike.output.as_str()), (Some(0), ""));
        assert_eq!(estate.fleetglass(&["diff", "kind:Node", "--json"])?.code, Some(1));
        let nothing = estate.fleetglass(&["diff", "kind:Deploymnt"])?;
        ensure!(nothing.code == Some(2) && nothing.complaints.contains("nothing was compared"), "{nothing:?}");
        Ok(())
    })
}

#[test]
fn a_watched_query_shows_what_comes_changes_and_goes() -> Result<()> {
    run(async || {
        let estate = Estate::start().await?;
        let kubeconfig = estate.kubectl.kubeconfig();
        let mut client = std::process::Command::new(program()?)
            .args(["search", "kind:Deployment spec.replicas:>2 namespace:redis", "--watch"])
            .env("KUBECONFIG", kubeconfig)
            .stdout(std::process::Stdio::piped())
            .spawn()?;
        let output = client.stdout.take().context("no output")?;
        let (lines, shown) = std::sync::mpsc::channel();
        let reader = std::thread::spawn(move || {
            for line in std::io::BufRead::lines(std::io::BufReader::new(output)).map_while(Result::ok) {
                let words: Vec<&str> = line.split_whitespace().collect();
                // Event, cluster, kind, namespace, name, age, replicas.
                let told = [words.first(), words.get(1), words.get(4), words.get(6)].map(|word| *word.unwrap_or(&""));
                if lines.send(told.join(" ")).is_err() {
                    return;
                }
            }
        });
        let expect = |line: &str| {
            let next =
                shown.recv_timeout(Duration::from_secs(60)).with_context(|| format!("instead of {line}: nothing"))?;
            ensure!(next == line, "instead of {line}: {next}");
            Ok(())
        };
        let shows = async {
            expect("EVENT CLUSTER NAME SPEC.REPLICAS")?;
            expect("ADDED pegasus-2 redis 3")?;
            let file = estate.file("pegasus", "redis.yaml");
            let text = std::fs::read_to_string(&file)?;
            // Never seen half written.
            let write = |replicas: &str| -> Result<()> {
                let beside = file.with_extension("new");
                std::fs::write(&beside, text.replacen("replicas: 1", &format!("replicas: {replicas}"), 1))?;
                Ok(std::fs::rename(beside, &file)?)
            };
            write("4")?;
            expect("ADDED pegasus redis 4")?;
            write("5")?;
            expect("MODIFIED pegasus redis 5")?;
            write("1")?;
            expect("DELETED pegasus redis 1")
        };
        let outcome: Result<()> = shows.await;
        client.kill()?;
        client.wait()?;
        reader.join().map_err(|_| anyhow::anyhow!("the reader ended badly"))?;
        outcome
    })
}

#[test]
fn a_shell_completes_fields_and_values_as_the_server_knows_them() -> Result<()> {
    run(async || {
        let estate = Estate::start().await?;
        let completed = |words: &[&str]| -> Result<Vec<String>> {
            let mut command = std::process::Command::new(program()?);
            command.env("KUBECONFIG", estate.kubectl.kubeconfig()).env("COMPLETE", "bash").env("_CLAP_IFS", "\n");
            command.env("_CLAP_COMPLETE_INDEX", (words.len() - 1).to_string()).arg("--").args(words);
            let output = String::from_utf8(command.output()?.stdout)?;
            Ok(output.lines().map(str::to_owned).collect())
        };
        // It gives up soon, so that nobody waits for it at a prompt.
        let completes = async |words: &[&str], expected: &[&str]| {
            eventually(Duration::from_secs(60), async || {
                let found = completed(words)?;
                ensure!(found == expected, "{found:?}");
                Ok(())
            })
            .await
        };
        completes(&["fleetglass", "search", "spec.repl"], &["spec.replicas:"]).await?;
        let half_a_query = ["fleetglass", "search", "'kind:Pod -cluster:pegasus-"];
        completes(&half_a_query, &["kind:Pod -cluster:pegasus-2"]).await?;
        completes(&["fleetglass", "search", "--by", "cluster,kin"], &["cluster,kind"]).await?;
        let half_a_name = ["fleetglass", "diff", "--cluster", "pegasus,p"];
        completes(&half_a_name, &["pegasus,pegasus", "pegasus,pegasus-2"]).await?;
        ensure!(completed(&["fleetglass", "search", "--expl"])?.contains(&"--explain".to_owned()));
        Ok(())
    })
}
