//! The CustomResourceDefinition as it is installed.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use kube::CustomResourceExt;

use crate::ServiceFence;

/// The definition of `ServiceFence`: as derived, with an absent spec taken as an empty one, and with
/// paragraphs of documentation on one line each, since `kubectl explain` wraps them itself.
pub fn definition() -> CustomResourceDefinition {
    let mut definition = ServiceFence::crd();
    for version in &mut definition.spec.versions {
        let Some(schema) = version
            .schema
            .as_mut()
            .and_then(|schema| schema.open_api_v3_schema.as_mut())
        else {
            continue;
        };
        schema.required = None;
        if let Some(spec) = schema
            .properties
            .as_mut()
            .and_then(|fields| fields.get_mut("spec"))
        {
            spec.default = Some(JSON(serde_json::json!({})));
        }
        join_lines(schema);
    }
    definition
}

fn join_lines(schema: &mut JSONSchemaProps) {
    if let Some(text) = &mut schema.description {
        let paragraphs = text.split("\n\n").map(|paragraph| paragraph.replace('\n', " "));
        *text = paragraphs.collect::<Vec<_>>().join("\n\n");
    }
    schema
        .properties
        .iter_mut()
        .flat_map(|fields| fields.values_mut())
        .for_each(join_lines);
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        join_lines(items);
    }
}
